"""`GET /events`, `GET /events/{id}`, `POST /events/{id}/retry` as a client sees them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from boost_streams.settings import Settings
from db.pool import Database
from tests.support.http import web_client
from tests.support.projects import make_project
from tests.support.stored_events import settle, store
from web import queries

ROUTES = {
    ("GET", "/events"): queries.list_events,
    ("GET", "/events/{id}"): queries.get_event,
    ("POST", "/events/{id}/retry"): queries.retry_event,
}
EVENT_FIELDS = [
    "id", "eventType", "status", "payload", "userId", "anonymousId", "sessionId", "messageId", "receivedAt",
    "occurredAt", "originalTimestamp", "settledAt", "attempt", "error",
]  # fmt: skip


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[Any]:
    async with web_client(settings, database, ROUTES) as client:
        yield client


def fields_of(body: dict[str, Any]) -> list[str]:
    return [error["field"] for error in body["errors"]]


async def test_event_has_the_documented_shape(client: Any, database: Database, project: Any) -> None:
    [event_id] = await store(database, project.id, "page_view", payload=b'{"price": 12345678901234567890.10}')
    response = await client.get(f"/events/{event_id}", headers=project.headers)
    assert response.status == 200
    assert response.content_type == "application/json"
    text = await response.text()
    assert '"price": 12345678901234567890.10' in text
    event = json.loads(text)
    assert list(event) == EVENT_FIELDS
    assert (event["id"], event["status"], event["userId"]) == (str(event_id), "pending", "u-1")
    assert (event["attempt"], event["error"], event["settledAt"]) == (0, None, None)
    assert event["receivedAt"].endswith("Z")
    assert dt.datetime.fromisoformat(event["receivedAt"]).tzinfo == dt.UTC


async def test_failed_event_names_the_field(client: Any, database: Database, project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    await settle(database, project.id, ids, "failed")
    event = await (await client.get(f"/events/{ids[0]}", headers=project.headers)).json()
    assert event["error"] == {"code": "invalid", "field": "url", "message": "is required"}
    assert event["settledAt"].endswith("Z")


async def test_event_of_another_project_is_404(
    client: Any, database: Database, project: Any, other_project: Any
) -> None:
    [theirs] = await store(database, other_project.id, "page_view")
    for path in (f"/events/{theirs}", f"/events/{uuid4()}", "/events/42", f"/events/{theirs.hex}"):
        response = await client.get(path, headers=project.headers)
        assert (response.status, (await response.json())["code"]) == (404, "not_found"), path


@pytest.mark.parametrize(("method", "path"), [("GET", "/events"), ("GET", "/events/x"), ("POST", "/events/x/retry")])
async def test_without_a_key_nothing_is_told(client: Any, method: str, path: str) -> None:
    assert (await client.request(method, path)).status == 401


async def test_scopes_are_asked_for(client: Any, database: Database) -> None:
    ingests = await make_project(database, "in", scopes=["ingest"])
    reads = await make_project(database, "out", scopes=["read"])
    assert (await client.get("/events", headers=ingests.headers)).status == 403
    assert (await client.get("/events/x", headers=ingests.headers)).status == 403
    assert (await client.post("/events/x/retry", headers=reads.headers)).status == 403
    assert (await client.get("/events", headers=reads.headers)).status == 200


async def test_pages_follow_the_cursor(client: Any, database: Database, project: Any, other_project: Any) -> None:
    ids = await store(database, project.id, *["click"] * 5)
    await store(database, other_project.id, "click")
    seen: list[str] = []
    parameters = {"limit": "2"}
    while True:
        page = await (await client.get("/events", params=parameters, headers=project.headers)).json()
        assert list(page) == ["items", "nextCursor"]
        seen += [event["id"] for event in page["items"]]
        if page["nextCursor"] is None:
            break
        parameters["cursor"] = page["nextCursor"]
    assert seen == [str(event_id) for event_id in reversed(ids)]


async def test_filters(client: Any, database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "page_view")
    await settle(database, project.id, ids[:1], "processed")

    async def found(**parameters: str) -> list[str]:
        page = await (await client.get("/events", params=parameters, headers=project.headers)).json()
        return [event["id"] for event in page["items"]]

    assert await found(status="processed") == [str(ids[0])]
    assert await found(eventType="page_view") == [str(ids[1])]
    assert await found(eventType="page_view", status="failed") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=", "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("status=done", "status"),
        ("status=", "status"),
        ("eventType=", "eventType"),
        ("eventType=%00", "eventType"),
        ("eventType=" + "x" * 201, "eventType"),
        ("cursor=abc", "cursor"),
        ("cursor=", "cursor"),
        ("colour=red", "colour"),
    ],
)
async def test_wrong_parameter_is_named(client: Any, project: Any, query: str, field: str) -> None:
    response = await client.get(f"/events?{query}", headers=project.headers)
    body = await response.json()
    assert (response.status, body["code"], fields_of(body)) == (422, "invalid", [field])


async def test_every_wrong_parameter_is_named_at_once(client: Any, project: Any) -> None:
    body = await (await client.get("/events?limit=x&status=y&z=1", headers=project.headers)).json()
    assert sorted(fields_of(body)) == ["limit", "status", "z"]


async def test_retry(client: Any, database: Database, project: Any, other_project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    path = f"/events/{ids[0]}/retry"
    assert (await client.post(path, headers=project.headers)).status == 409
    await settle(database, project.id, ids, "failed")
    assert (await client.post(path, headers=other_project.headers)).status == 404
    response = await client.post(path, headers=project.headers)
    assert response.status == 202
    assert await response.json() == {"id": str(ids[0]), "status": "pending", "attempt": 1}
    assert (await client.post(path, headers=project.headers)).status == 409
    assert (await client.post("/events/42/retry", headers=project.headers)).status == 404
