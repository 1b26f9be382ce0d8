"""`/dead-letters` as a client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from agents.settlement import Settlement
from boost_streams.outcomes import failed, processed
from boost_streams.settings import Settings
from db import dead_letters as repository
from db.pool import Database
from tests.support.http import web_client
from tests.support.letters import FAILED, bury, due_again, fetch, letters_of, settle_as
from tests.support.projects import make_project
from web import dead_letters, queries

ROUTES = {
    ("GET", "/dead-letters"): dead_letters.list_letters,
    ("POST", "/dead-letters/replay"): dead_letters.replay,
    ("POST", "/dead-letters/discard"): dead_letters.discard,
    ("GET", "/dead-letters/{id}"): dead_letters.get_letter,
    ("GET", "/events/{id}"): queries.get_event,
    ("POST", "/events/{id}/retry"): queries.retry_event,
}
FIELDS = [
    "id", "eventType", "handler", "status", "error", "attempts", "firstFailedAt", "lastFailedAt", "origin", "replays",
    "history", "closedAt",
]  # fmt: skip


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[Any]:
    async with web_client(settings, database, ROUTES) as client:
        yield client


async def ask(client: Any, owner: Any, path: str, body: Any = None, **query: str) -> tuple[int, dict[str, Any]]:
    method = "GET" if body is None else "POST"
    async with client.request(method, path, json=body, params=query, headers=owner.headers) as response:
        return response.status, json.loads(await response.text())


async def test_letter_has_the_documented_shape(client: Any, database: Database, project: Any) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    status, letter = await ask(client, project, f"/dead-letters/{event_id}")
    assert status == 200
    assert list(letter) == FIELDS
    assert letter["id"] == str(event_id)
    assert (letter["eventType"], letter["handler"], letter["status"]) == ("page_view", "tracking", "open")
    assert letter["error"] == {"code": "missing", "field": "url", "message": "is required"}
    assert letter["origin"] == {"topic": "events.tracking", "partition": 3, "offset": 42}
    assert (letter["attempts"], letter["replays"], letter["history"], letter["closedAt"]) == (1, 0, [], None)
    assert letter["lastFailedAt"].endswith("Z")
    _, event = await ask(client, project, f"/events/{event_id}")
    assert event["error"] == letter["error"]


async def test_another_projects_letter_is_404_and_not_counted(
    client: Any, database: Database, project: Any, other_project: Any
) -> None:
    [theirs] = await bury(database, other_project.id, "page_view")
    [mine] = await bury(database, project.id, "page_view")
    for path in (f"/dead-letters/{theirs}", f"/dead-letters/{uuid4()}", "/dead-letters/42"):
        status, body = await ask(client, project, path)
        assert (status, body["code"]) == (404, "not_found"), path
    ids = [str(theirs), str(mine), str(uuid4())]
    assert await ask(client, project, "/dead-letters/replay", {"ids": ids, "dryRun": True}) == (200, {"count": 1})
    assert await ask(client, project, "/dead-letters/replay", {"filter": {}, "dryRun": True}) == (200, {"count": 1})
    assert await ask(client, project, "/dead-letters/replay", {"ids": ids}) == (
        202,
        {"replayed": 1, "nextCursor": None},
    )
    assert await ask(client, project, "/dead-letters/discard", {"ids": [str(theirs)]}) == (
        200,
        {"discarded": 0, "nextCursor": None},
    )
    assert [letter.status for letter in await letters_of(database, other_project.id)] == ["open"]


async def test_a_message_of_no_project_is_nobodys(client: Any, database: Database, project: Any) -> None:
    letter_id = uuid4()
    async with database.across_projects() as connection:
        await connection.execute(
            "INSERT INTO dead_letters (id, code, message, attempts) VALUES ($1, 'malformed', 'x', 1)", letter_id
        )
    assert (await ask(client, project, f"/dead-letters/{letter_id}"))[0] == 404
    assert (await ask(client, project, "/dead-letters"))[1]["items"] == []
    assert await ask(client, project, "/dead-letters/discard", {"filter": {}}) == (
        200,
        {"discarded": 0, "nextCursor": None},
    )


async def test_without_a_key_nothing_is_told(client: Any) -> None:
    for method, path in (("GET", ""), ("GET", "/x"), ("POST", "/replay"), ("POST", "/discard")):
        assert (await client.request(method, f"/dead-letters{path}")).status == 401


async def test_scopes_are_asked_for(client: Any, database: Database) -> None:
    ingests = await make_project(database, "in", scopes=["ingest"])
    reads = await make_project(database, "out", scopes=["read"])
    assert (await ask(client, ingests, "/dead-letters"))[0] == 403
    assert (await ask(client, ingests, "/dead-letters/x"))[0] == 403
    assert (await ask(client, ingests, "/dead-letters/discard", {"filter": {}}))[0] == 403
    assert (await ask(client, ingests, "/dead-letters/replay", {"filter": {}}))[0] == 202
    assert (await ask(client, reads, "/dead-letters/replay", {"filter": {}}))[0] == 403
    assert (await ask(client, reads, "/dead-letters"))[0] == 200


async def test_pages_and_filters(client: Any, database: Database, project: Any) -> None:
    ids = [str(one) for _ in range(5) for one in await bury(database, project.id, "page_view")]
    await bury(database, project.id, "payment_failed", outcome=failed("invalid", None, "no"))
    seen: list[str] = []
    query = {"limit": "2", "eventType": "page_view"}
    while True:
        status, page = await ask(client, project, "/dead-letters", **query)
        assert (status, list(page)) == (200, ["items", "nextCursor"])
        seen += [letter["id"] for letter in page["items"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == ids[::-1]
    _, page = await ask(client, project, "/dead-letters", code="invalid", handler="payment", status="open")
    assert [letter["eventType"] for letter in page["items"]] == ["payment_failed"]
    when = page["items"][0]["lastFailedAt"]
    assert len((await ask(client, project, "/dead-letters", **{"from": when}))[1]["items"]) == 1
    assert len((await ask(client, project, "/dead-letters", to=when))[1]["items"]) == 5


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("limit=0", ["limit"]),
        ("limit=201", ["limit"]),
        ("status=done", ["status"]),
        ("status=open&status=open", ["status"]),
        ("eventType=", ["eventType"]),
        ("code=%00", ["code"]),
        ("handler=" + "x" * 201, ["handler"]),
        ("from=yesterday", ["from"]),
        ("to=1999-01-01", ["to"]),
        ("cursor=abc", ["cursor"]),
        ("cursor=", ["cursor"]),
        ("colour=red&limit=x", ["colour", "limit"]),
    ],
)
async def test_wrong_parameter_is_named(client: Any, project: Any, query: str, fields: list[str]) -> None:
    response = await client.get(f"/dead-letters?{query}", headers=project.headers)
    body = await response.json()
    assert (response.status, body["code"]) == (422, "invalid")
    assert [error["field"] for error in body["errors"]] == fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["filter"]),
        ({"ids": None, "filter": None}, ["filter"]),
        ({"ids": [str(uuid4())], "filter": {}}, ["filter"]),
        ({"ids": []}, ["ids"]),
        ({"ids": ["42"]}, ["ids.0"]),
        ({"ids": [str(uuid4())] * 1001}, ["ids"]),
        ({"filter": []}, ["filter"]),
        ({"filter": {"colour": "red", "code": 5}}, ["filter.colour", "filter.code"]),
        ({"filter": {"status": "resolved"}}, ["filter.status"]),
        ({"filter": {"status": ["open"]}}, ["filter.status"]),
        ({"filter": {"from": 5, "to": "x"}}, ["filter.from", "filter.to"]),
        ({"filter": {}, "cursor": "abc"}, ["cursor"]),
        ({"filter": {}, "dryRun": "yes"}, ["dryRun"]),
        ({"filter": {}, "limit": 5}, ["limit"]),
    ],
)
@pytest.mark.parametrize("path", ["/dead-letters/replay", "/dead-letters/discard"])
async def test_wrong_field_is_named(client: Any, project: Any, path: str, body: Any, fields: list[str]) -> None:
    status, answer = await ask(client, project, path, body)
    assert (status, answer["code"]) == (422, "invalid"), answer
    assert [error["field"] for error in answer["errors"]] == fields


async def test_a_large_replay_goes_on_from_its_cursor(
    client: Any, database: Database, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await bury(database, project.id, *["page_view"] * 25)
    monkeypatch.setattr(dead_letters.work_through, "__kwdefaults__", {"most_pieces": 2})
    monkeypatch.setattr(repository.next_piece, "__kwdefaults__", {"cursor": None, "most": 5, "window": 7})
    answers = []
    body: dict[str, Any] = {"filter": {"eventType": "page_view"}}
    while True:
        status, answer = await ask(client, project, "/dead-letters/replay", body)
        assert status == 202
        answers.append(answer["replayed"])
        if answer["nextCursor"] is None:
            break
        body["cursor"] = answer["nextCursor"]
    assert len(answers) >= 3
    assert max(answers) <= 10
    assert sum(answers) == len(ids)
    assert (await fetch(database, "SELECT count(*) AS n FROM event_retries"))[0]["n"] == len(ids)


async def test_replayed_failed_again_resolved_discarded(client: Any, database: Database, project: Any) -> None:
    first, second = await bury(database, project.id, "page_view", "page_view")
    status, answer = await ask(client, project, "/dead-letters/replay", {"filter": {"code": "missing"}})
    assert (status, answer) == (202, {"replayed": 2, "nextCursor": None})
    _, event = await ask(client, project, f"/events/{first}")
    assert (event["status"], event["attempt"], event["error"]) == ("pending", 1, None)
    assert (await ask(client, project, f"/events/{first}/retry", {}))[0] == 409
    settlement = Settlement(database)
    again = {event.id: event for event in await due_again(database)}
    await settle_as(settlement, [again[first]], FAILED)
    await settle_as(settlement, [again[second]], processed())
    _, letter = await ask(client, project, f"/dead-letters/{first}")
    assert (letter["status"], letter["replays"], letter["attempts"]) == ("open", 1, 2)
    (entry,) = letter["history"]
    assert {"failedAt", "code", "field", "message", "attempts", "replayedAt"} == set(entry)
    assert entry["replayedAt"].endswith("Z")
    assert (await ask(client, project, f"/dead-letters/{second}"))[1]["status"] == "resolved"
    assert await ask(client, project, "/dead-letters/discard", {"filter": {}}) == (
        200,
        {"discarded": 1, "nextCursor": None},
    )
    assert (await ask(client, project, f"/dead-letters/{first}"))[1]["status"] == "discarded"
    # A discarded one is replayed by its id, by a filter that says so, or by a retry of its event; not by the way.
    assert (await ask(client, project, "/dead-letters/replay", {"filter": {}}))[1]["replayed"] == 0
    discarded = {"filter": {"status": "discarded"}}
    assert await ask(client, project, "/dead-letters/replay", {**discarded, "dryRun": True}) == (200, {"count": 1})
    assert (await ask(client, project, "/dead-letters/replay", discarded))[1]["replayed"] == 1
