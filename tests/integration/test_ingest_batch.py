"""`POST /events/batch` as a client sees it: an answer for each event, and what was stored of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from boost_streams.errors import Unavailable
from boost_streams.settings import Settings
from db.pool import Database
from tests.support.http import web_client
from tests.support.intakes import running_intake
from tests.support.projects import TestProject, make_project
from web import commit as commit_module
from web.formats import boost_json
from web.ingest import accept_event
from web.ingest_batch import accept_batch
from web.queries import get_event, list_events

Client = TestClient[Any, Any]
ROUTES = {("POST", "/events"): accept_event, ("POST", "/events/batch"): accept_batch}
EVENT = {"eventType": "page_view", "payload": {"url": "/a"}, "userId": "u-1"}


@pytest.fixture
async def client(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Client]:
    async with running_intake(database) as intake:
        async with web_client(settings, database, ROUTES, intake=intake) as client:
            client.session.headers.update(project.headers)
            yield client


async def post(client: Client, body: Any, content_type: str = "application/json") -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.post("/events/batch", data=data, headers={"content-type": content_type}) as response:
        return response.status, json.loads(await response.text())


async def stored(database: Database) -> list[Any]:
    async with database.across_projects() as connection:
        rows: list[Any] = await connection.fetch("SELECT * FROM events ORDER BY id")
    return rows


@pytest.mark.parametrize(
    ("wrap", "content_type"),
    [
        (lambda events: {"events": events}, "application/json"),
        (lambda events: events, "application/json"),
        (lambda events: b"\n".join(json.dumps(one).encode() for one in events), "application/x-ndjson"),
        (lambda events: b"\n\n".join(json.dumps(one).encode() for one in events) + b"\r\n", "application/jsonl"),
        (lambda events: b"\n".join(json.dumps(one).encode() for one in events), "application/ndjson"),
    ],
)
async def test_every_event_is_answered_with_its_id(
    client: Client, database: Database, project: TestProject, wrap: Any, content_type: str
) -> None:
    events = [EVENT | {"payload": {"url": f"/{number}"}} for number in range(3)]
    status, answer = await post(client, wrap(events), content_type)
    rows = await stored(database)
    assert (status, answer) == (
        202,
        {
            "accepted": 3,
            "rejected": 0,
            "results": [{"index": number, "id": str(row["id"])} for number, row in enumerate(rows)],
        },
    )
    assert [json.loads(row["payload"]) for row in rows] == [one["payload"] for one in events]
    assert {row["project_id"] for row in rows} == {project.id}


async def test_a_bad_event_costs_none_of_the_others(client: Client, database: Database) -> None:
    poisoned = [
        EVENT | {"payload": {"a": "x\x00y"}},
        EVENT | {"eventType": " "},
        EVENT | {"payload": {"a": "x" * 70_000}},
        EVENT | {"payload": []},
        EVENT | {"more": 1},
        "text",
    ]
    events = [EVENT, *poisoned, EVENT]
    status, answer = await post(client, {"events": events})
    assert status == 202
    assert set(answer) == {"accepted", "rejected", "results"}
    assert (answer["accepted"], answer["rejected"]) == (2, len(poisoned))
    assert [result["index"] for result in answer["results"]] == list(range(len(events)))
    refused = answer["results"][1:-1]
    assert all(set(result) == {"index", "code", "message", "field"} for result in refused)
    assert [(result["code"], result["field"]) for result in refused] == [
        ("invalid", "payload"),
        ("invalid", "eventType"),
        ("too_large", None),
        ("invalid", "payload"),
        ("invalid", "more"),
        ("invalid", "body"),
    ]
    assert [str(row["id"]) for row in await stored(database)] == [answer["results"][n]["id"] for n in (0, -1)]


async def test_what_postgresql_alone_refuses_costs_none_of_the_others(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a check of ours were missing."""
    monkeypatch.setattr(boost_json, "checked_payload", lambda payload: payload)
    events = [EVENT, EVENT | {"payload": {"a": "\x00"}}, EVENT]
    status, answer = await post(client, events)
    assert (status, answer["accepted"]) == (202, 2)
    assert (answer["results"][1]["code"], answer["results"][1]["field"]) == ("invalid", "payload")
    assert len(await stored(database)) == 2


async def test_nothing_taken_is_422_with_every_reason(client: Client, database: Database) -> None:
    status, answer = await post(client, [{"eventType": "x"}, 5])
    assert status == 422
    assert {"code", "message", "requestId", "accepted", "rejected", "results"} == set(answer)
    assert (answer["code"], answer["accepted"], answer["rejected"]) == ("invalid", 0, 2)
    assert [result["field"] for result in answer["results"]] == ["payload", "body"]
    assert await stored(database) == []


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "field"),
    [
        (b"", "application/json", 400, "malformed_json", None),
        (b"[{", "application/json", 400, "malformed_json", None),
        (b"[]", "application/json", 422, "invalid", "events"),
        (b'{"events": []}', "application/json", 422, "invalid", "events"),
        (b"\n\n", "application/x-ndjson", 422, "invalid", "events"),
        (b"null", "application/json", 422, "invalid", "body"),
        (b"[1" + b",1" * 2_500 + b"]", "application/json", 413, "too_large", "events"),
        (b"[" + b" " * 5_000_000 + b"]", "application/json", 413, "too_large", None),
        (b"[]", "application/xml", 415, "unsupported_media_type", None),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_as_a_whole(
    client: Client, database: Database, body: bytes, content_type: str, status: int, code: str, field: str | None
) -> None:
    answered, answer = await post(client, body, content_type)
    assert (answered, answer["code"]) == (status, code)
    assert [problem["field"] for problem in answer.get("errors", [])] == ([field] if field else [])
    assert await stored(database) == []


async def test_a_key_without_the_scope_is_refused(client: Client, database: Database) -> None:
    reader = await make_project(database, "reader", scopes=("read",))
    async with client.post("/events/batch", json=[EVENT], headers=reader.headers) as response:
        assert response.status == 403
    async with client.post("/events/batch", json=[EVENT], headers={"x-api-key": "bst_test_x"}) as response:
        assert response.status == 401


async def test_the_largest_batch_is_spread_over_commits_and_answered_in_order(
    client: Client, database: Database
) -> None:
    events = [EVENT | {"payload": {"n": number}} for number in range(2_500)]
    status, answer = await post(client, {"events": events})
    assert (status, answer["accepted"], answer["rejected"]) == (202, 2_500, 0)
    number_of = {str(row["id"]): json.loads(row["payload"])["n"] for row in await stored(database)}
    assert [number_of[result["id"]] for result in answer["results"]] == list(range(2_500))
    async with database.across_projects() as connection:
        sizes = await connection.fetch("SELECT unsettled FROM event_batches")
    assert sum(row["unsettled"] for row in sizes) == 2_500
    assert max(row["unsettled"] for row in sizes) <= 500


async def test_a_batch_sent_again_is_answered_with_the_first_ids(client: Client, database: Database) -> None:
    events = [EVENT | {"messageId": f"m-{number}"} for number in range(1_200)]
    _, first = await post(client, {"events": events})
    status, again = await post(client, events)
    assert (status, again["accepted"], again["rejected"]) == (202, 1_200, 0)
    assert again["results"] == [result | {"duplicate": True} for result in first["results"]]
    assert len(await stored(database)) == 1_200


async def test_the_same_batch_many_times_at_once_is_stored_once(
    settings: Settings, client: Client, database: Database, project: TestProject
) -> None:
    """Through two workers: the same batch six times, in both orders, together with its events one by one."""
    events = [EVENT | {"messageId": f"m-{number}"} for number in range(700)]
    async with running_intake(database) as intake:
        async with web_client(settings, database, ROUTES, intake=intake) as other:
            other.session.headers.update(project.headers)
            singles = [other.post("/events", json=event) for event in events[::50]]
            orders = [events, events[::-1], events, events[::-1], events, events[::-1]]
            answers, *single_answers = await asyncio.gather(
                asyncio.gather(*(post((client, other)[n % 2], order) for n, order in enumerate(orders))), *singles
            )
            taken = {
                one["messageId"]: (await got.json())["id"]
                for one, got in zip(events[::50], single_answers, strict=True)
            }
    rows = {row["message_id"]: str(row["id"]) for row in await stored(database)}
    assert len(rows) == len(await stored(database)) == 700
    assert taken.items() <= rows.items()
    first = 0
    for order, (status, answer) in zip(orders, answers, strict=True):
        assert (status, answer["accepted"]) == (202, 700)
        assert [result["id"] for result in answer["results"]] == [rows[event["messageId"]] for event in order]
        first += sum("duplicate" not in result for result in answer["results"])
    assert first <= 700


async def test_a_message_id_twice_in_one_batch(client: Client, database: Database) -> None:
    events = [EVENT | {"messageId": "m"}, EVENT, EVENT | {"messageId": "m"}]
    _, answer = await post(client, events)
    first, other, again = answer["results"]
    assert again == {"index": 2, "id": first["id"], "duplicate": True}
    assert "duplicate" not in first
    assert other["id"] != first["id"]
    assert len(await stored(database)) == 2


async def test_sent_at_corrects_and_a_far_timestamp_is_marked(
    settings: Settings, database: Database, project: TestProject
) -> None:
    noon = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    routes = ROUTES | {("GET", "/events/{id}"): get_event, ("GET", "/events"): list_events}
    events = [EVENT | {"timestamp": "2026-01-31T09:50:00Z"}, EVENT | {"timestamp": "2026-02-02T10:00:00Z"}]
    async with running_intake(database) as intake:
        async with web_client(settings, database, routes, intake=intake, now=lambda: noon) as client:
            client.session.headers.update(project.headers)
            _, answer = await post(client, {"events": events, "sentAt": "2026-01-31T10:00:00Z"})
            ids = [result["id"] for result in answer["results"]]
            corrected, clamped = [await (await client.get(f"/events/{one}")).json() for one in ids]
            listed = await (await client.get("/events")).json()
            async with client.post("/events", json=EVENT | {"timestamp": "2026-02-01T12:00:01Z"}) as response:
                single = await (await client.get(f"/events/{(await response.json())['id']}")).json()
    assert (corrected["occurredAt"], corrected["originalTimestamp"]) == ("2026-01-31T11:50:00Z", None)
    assert (clamped["occurredAt"], clamped["originalTimestamp"]) == (clamped["receivedAt"], "2026-02-02T10:00:00Z")
    assert (single["occurredAt"], single["originalTimestamp"]) == (single["receivedAt"], "2026-02-01T12:00:01Z")
    assert {item["id"]: item["originalTimestamp"] for item in listed["items"]} == dict(
        zip(ids, (None, "2026-02-02T10:00:00Z"), strict=True)
    )


async def test_postgresql_away_is_503_for_the_whole(
    settings: Settings, database: Database, project: TestProject
) -> None:
    async with running_intake(Database("postgresql://postgres@127.0.0.1:1/none")) as intake:
        async with web_client(settings, database, ROUTES, intake=intake) as client:
            for events in ([EVENT], [EVENT, {"eventType": 5}]):
                async with client.post("/events/batch", json=events, headers=project.headers) as response:
                    assert response.status == 503
                    assert int(response.headers["Retry-After"]) >= 1
                    assert (await response.json())["code"] == "unavailable"
    assert await stored(database) == []


async def test_a_commit_that_fails_among_others_is_told_event_by_event(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = commit_module.store_batch_across_projects
    commits = 0

    async def away_once(*arguments: Any, **named: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits == 2:
            raise Unavailable("PostgreSQL is away", retry_after=1)
        return await store(*arguments, **named)

    monkeypatch.setattr(commit_module, "store_batch_across_projects", away_once)
    events = [EVENT | {"payload": {"n": number}} for number in range(1_300)]
    status, answer = await post(client, events)
    assert status == 202
    assert (answer["accepted"], answer["rejected"]) == (800, 500)
    rows = {str(row["id"]): json.loads(row["payload"])["n"] for row in await stored(database)}
    assert rows == {result["id"]: result["index"] for result in answer["results"] if "id" in result}
    refused = [result for result in answer["results"] if "code" in result]
    assert {(result["code"], result["field"]) for result in refused} == {("unavailable", None)}


async def test_a_project_deleted_meanwhile_is_401(client: Client, database: Database, project: TestProject) -> None:
    """Nobody was told of it: the key is still remembered."""
    assert (await post(client, [EVENT]))[0] == 202
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM projects WHERE id = $1", project.id)
    status, answer = await post(client, [EVENT])
    assert (status, answer["code"]) == (401, "unauthorized")
