"""`POST /events/batch` as a client sees it: an answer for each event, and what was stored of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from boost_streams.settings import Settings
from db.pool import Database
from tests.support.http import web_client
from tests.support.intakes import running_intake
from tests.support.projects import TestProject
from web.ingest import accept_event
from web.ingest_batch import accept_batch

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
