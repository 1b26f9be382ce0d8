"""What a newer release wrote is published again later; what is settled or published already is left alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from agents.postponing import Postponing
from boost_streams.event_id import batch_of
from boost_streams.records import EventKey, Newer
from db.batches import NOTHING_PASSED, Claim, claim_due_batches_across_projects
from db.pool import Database
from db.postponing import MOST_AT_ONCE, claim_returned_batches_across_projects
from db.settlement import Move, move_events_across_projects
from tests.support.stored_events import WORKER, settle, store

_STATES = "SELECT id, last_published_at, due_at - now() AS pause FROM event_batches ORDER BY id"


def ignore(batches: Iterable[UUID]) -> None:
    """Stand in for a sweeper that has other things to do."""


def newer(*events: EventKey) -> Newer:
    return Newer("raw-events", 0, 1, 2, list(events))


async def fetch(database: Database, sql: str) -> list[Any]:
    async with database.across_projects() as connection:
        return await connection.fetch(sql)


async def test_batches_come_back_after_a_pause_that_grows(database: Database, project: Any) -> None:
    first = await store(database, project.id, "click", "click")
    settled = await store(database, project.id, "click")
    await settle(database, project.id, settled, "processed")
    keys = [EventKey(event_id, project.id) for event_id in (*first, *settled)]
    sent_back: list[UUID] = []
    postponing = Postponing(database, sent_back.extend)
    pauses = []
    for _ in range(3):
        await postponing.postpone([newer(*keys)])
        (batch,) = await fetch(database, _STATES)
        assert (batch["id"], batch["last_published_at"]) == (batch_of(first[0]), None)
        pauses.append(round(batch["pause"].total_seconds()))
        async with database.across_projects() as connection:
            claim = Claim(WORKER, 9, 300)
            assert await claim_due_batches_across_projects(connection, claim, NOTHING_PASSED, 10) == []
            await connection.execute("UPDATE event_batches SET due_at = now()")
            (claimed,) = await claim_due_batches_across_projects(connection, claim, NOTHING_PASSED, 10)
        assert [event.id for event in claimed.events] == first
    assert pauses == [2, 4, 8]
    assert set(sent_back) == {batch_of(first[0]), batch_of(settled[0])}


async def test_who_sends_a_batch_back_publishes_it_again_a_few_times_before_it_is_due(
    database: Database, project: Any
) -> None:
    ids = await store(database, project.id, "click")
    postponing, claim = Postponing(database, ignore), Claim(WORKER, 9, 300)
    times = 0
    for _ in range(MOST_AT_ONCE + 3):
        await postponing.postpone([newer(EventKey(ids[0], project.id))])
        async with database.across_projects() as connection:
            claimed = await claim_returned_batches_across_projects(connection, claim, [batch_of(ids[0])])
            assert [event.id for batch in claimed for event in batch.events] == (ids if claimed else [])
            assert await claim_returned_batches_across_projects(connection, claim, [batch_of(ids[0])]) == []
        times += bool(claimed)
    assert times == MOST_AT_ONCE


async def test_what_is_unpublished_already_keeps_its_time(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click")
    async with database.across_projects() as connection:
        await connection.execute("UPDATE event_batches SET last_published_at = NULL, due_at = now()")
    await Postponing(database, ignore).postpone([newer(EventKey(ids[0], project.id))])
    (batch,) = await fetch(database, _STATES)
    assert batch["pause"].total_seconds() <= 0


async def test_retries_come_back_too(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "click")
    moves = [Move(project.id, event_id, 0, "pending", reason="later") for event_id in ids]
    async with database.across_projects() as connection, connection.transaction():
        await move_events_across_projects(connection, moves)
        await connection.execute(
            "UPDATE event_retries SET last_published_at = now(), publish_count = 1, due_at = 'infinity'"
        )
    await Postponing(database, ignore).postpone([newer(EventKey(ids[0], project.id, 1))])
    rows = await fetch(database, "SELECT event_id, last_published_at, due_at FROM event_retries ORDER BY event_id")
    assert [row["last_published_at"] is None for row in rows] == [True, False]


async def test_a_record_without_keys_changes_nothing(database: Database, project: Any) -> None:
    await store(database, project.id, "click")
    before = await fetch(database, "SELECT * FROM event_batches")
    await Postponing(database, ignore).postpone([newer()])
    await Postponing(database, ignore).postpone([])
    assert await fetch(database, "SELECT * FROM event_batches") == before
