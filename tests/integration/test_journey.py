"""`GET /events/{id}/journey`: every state that an event can be in says how it came there and what it waits for."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from boost_streams.event_id import batch_of, event_ids, id_at
from boost_streams.settings import Settings
from db.batches import (
    NOTHING_PASSED,
    Claim,
    claim_due_batches_across_projects,
    claim_due_retries_across_projects,
    release_batches_across_projects,
)
from db.journey import forget_publishes_across_projects, note_publishes_across_projects
from db.pool import Database
from db.settlement import Move, move_events_across_projects
from db.workers import record_progress_across_projects
from tests.support.http import web_client
from tests.support.projects import make_project
from tests.support.stored_events import WORKER, settle, store
from web import journey, queries

ROUTES = {
    ("GET", "/events/{id}/journey"): journey.get_journey,
    ("POST", "/events/{id}/retry"): queries.retry_event,
}
SWEEPER = uuid4()


@pytest.fixture
async def client(settings: Settings, database: Database) -> AsyncIterator[Any]:
    async with web_client(settings, database, ROUTES) as client:
        yield client


async def journey_of(client: Any, project: Any, event_id: UUID) -> dict[str, Any]:
    response = await client.get(f"/events/{event_id}/journey", headers=project.headers)
    assert response.status == 200
    answer: dict[str, Any] = await response.json()
    return answer


def steps(answer: dict[str, Any]) -> list[tuple[str, str | None, int | None]]:
    return [(step["step"], step["by"], step["attempt"]) for step in answer["steps"]]


async def sweep(database: Database, *, retries: bool = False) -> None:
    claim_due = claim_due_retries_across_projects if retries else claim_due_batches_across_projects
    async with database.across_projects() as connection:
        assert await claim_due(connection, Claim(SWEEPER, 7, 300), NOTHING_PASSED, 100)


async def pass_by(database: Database, when: dt.datetime | None) -> None:
    async with database.across_projects() as connection:
        await record_progress_across_projects(connection, WORKER, [("raw-events", n, when) for n in range(3)])


async def test_an_event_that_goes_through_at_once(client: Any, database: Database, project: Any) -> None:
    [event_id] = await store(database, project.id, "click")
    answer = await journey_of(client, project, event_id)
    assert steps(answer) == [("received", None, None), ("committed", None, None), ("published", "intake", 0)]
    assert answer["waitingFor"] == "the dispatcher"
    assert [step["worker"] for step in answer["steps"]] == [None, str(WORKER), str(WORKER)]
    received, committed, _ = (dt.datetime.fromisoformat(step["at"]) for step in answer["steps"])
    assert abs(committed - received) < dt.timedelta(seconds=5)

    await pass_by(database, None)
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[-1] == ("dispatched", None, 0)
    assert answer["waitingFor"] == "its handler"
    await pass_by(database, committed - dt.timedelta(minutes=1))
    assert (await journey_of(client, project, event_id))["waitingFor"] == "the dispatcher"

    await settle(database, project.id, [event_id], "processed")
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[2:] == [("published", "intake", 0), ("dispatched", None, 0), ("settled", None, 0)]
    assert (answer["status"], answer["waitingFor"], answer["dueAt"]) == ("processed", None, None)
    assert answer["steps"][-1]["detail"] == "processed"


async def test_an_event_that_the_broker_did_not_take(client: Any, database: Database, project: Any) -> None:
    [event_id, neighbour] = await store(database, project.id, "click", "click")
    async with database.across_projects() as connection:
        await release_batches_across_projects(connection, [batch_of(event_id)])
    answer = await journey_of(client, project, event_id)
    assert steps(answer) == [("received", None, None), ("committed", None, None)]
    assert answer["waitingFor"] == "a sweeper, to be published"
    assert answer["dueAt"] is not None

    await sweep(database)
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[-1] == ("published", "sweeper", 0)
    assert answer["steps"][-1]["worker"] == str(SWEEPER)
    await settle(database, project.id, [event_id], "processed")
    async with database.across_projects() as connection:
        await release_batches_across_projects(connection, [batch_of(event_id)])
    await sweep(database)  # for its neighbour, which is not settled
    assert steps(await journey_of(client, project, event_id))[3:] == [
        ("published", "sweeper", 0),
        ("dispatched", None, 0),
        ("settled", None, 0),
    ]
    assert [step[1] for step in steps(await journey_of(client, project, neighbour))].count("sweeper") == 2


async def test_an_event_that_is_tried_again(client: Any, database: Database, project: Any) -> None:
    [event_id] = await store(database, project.id, "click")
    again = Move(project.id, event_id, 0, "pending", retry_after=0.0, reason="the shop is closed")
    async with database.across_projects() as connection, connection.transaction():
        await move_events_across_projects(connection, [again])
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[2:] == [("published", "intake", 0), ("attempt", None, 0)]
    assert answer["steps"][-1]["detail"] == "the shop is closed"
    assert answer["waitingFor"] == "a sweeper, to be published"

    await sweep(database, retries=True)
    assert steps(await journey_of(client, project, event_id))[3:] == [
        ("attempt", None, 0),
        ("published", "sweeper", 1),
    ]
    await settle(database, project.id, [event_id], "failed", attempt=1)
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[3:] == [
        ("attempt", None, 0),
        ("published", "sweeper", 1),
        ("dispatched", None, 1),
        ("settled", None, 1),
    ]
    assert answer["steps"][-1]["detail"] == "failed"

    assert (await client.post(f"/events/{event_id}/retry", headers=project.headers)).status == 202
    answer = await journey_of(client, project, event_id)
    assert steps(answer)[-1] == ("attempt", None, 1)
    assert answer["steps"][-1]["detail"] == "asked for"


async def test_nothing_is_told_of_another_projects_events(
    client: Any, database: Database, project: Any, other_project: Any
) -> None:
    [theirs] = await store(database, other_project.id, "click")
    for path in (str(theirs), str(uuid4()), "42"):
        response = await client.get(f"/events/{path}/journey", headers=project.headers)
        assert (response.status, (await response.json())["code"]) == (404, "not_found")
    assert (await client.get(f"/events/{theirs}/journey")).status == 401
    ingests = await make_project(database, "in", scopes=["ingest"])
    assert (await client.get(f"/events/{theirs}/journey", headers=ingests.headers)).status == 403


async def test_old_publishes_are_forgotten(database: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    old, recent = id_at(now - dt.timedelta(days=20)), id_at(now)
    async with database.across_projects() as connection:
        for one in (old, recent):
            await note_publishes_across_projects(connection, event_ids(batch_of(one), 3), [0, 1, 2], SWEEPER)
        # A retry of an old event is recent all the same.
        assert await forget_publishes_across_projects(connection) == 0
        await connection.execute("INSERT INTO event_publishes SELECT id, attempt, created_at - interval '20 days', "
            "worker_id FROM event_publishes")  # fmt: skip
        assert await forget_publishes_across_projects(connection) == 3
        assert await connection.fetchval("SELECT count(*) FROM event_publishes") == 9
