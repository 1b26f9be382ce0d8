"""Events handled and settled as an agent does it, and the dead letters that come of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec

from agents.burials import Origins
from agents.effects import Settled
from agents.settlement import Settlement
from agents.streams import Taken
from boost_streams.events import Event
from boost_streams.outcomes import Outcome, failed
from boost_streams.records import EventRecord, UnreadHandlerBatch
from db.batches import Claim, claim_due_retries_across_projects, record_of_row
from db.dead_letters import LetterFilter, StoredLetter, list_letters
from db.pool import Database
from tests.support.records import as_bytes
from tests.support.stored_events import WORKER, store

LONG_AGO = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FAILED = failed("missing", "url", "is required")


async def fetch(database: Database, sql: str, *args: object) -> list[Any]:
    """Ask the database across projects."""
    async with database.across_projects() as connection:
        return cast("list[Any]", await connection.fetch(sql, *args))


async def events_of(database: Database, ids: Sequence[UUID]) -> list[Event]:
    """Read first deliveries of events."""
    rows = await fetch(database, "SELECT * FROM events WHERE id = ANY($1::uuid[]) ORDER BY id", list(ids))
    return [Event.of_record(record_of_row(row)) for row in rows]


async def due_again(database: Database) -> list[Event]:
    """Claim every retry as the sweeper does, whether or not it is due, and return the events as they would travel."""
    async with database.across_projects() as connection:
        await connection.execute("UPDATE event_retries SET due_at = now(), last_published_at = NULL")
        claimed = await claim_due_retries_across_projects(
            connection, Claim(WORKER, 1, 300), (await connection.fetchval("SELECT now()")), 1000
        )
    return [Event.of_record(record) for batch in claimed for record in batch.events]


def origins(events: Sequence[Event], topic: str = "events.tracking") -> Origins:
    """Say that these events stood in one message, at partition 3, offset 42."""
    records = [
        as_bytes(EventRecord(e.id, e.project_id, e.event_type, e.occurred_at, e.received_at, msgspec.Raw(b"{}")))
        for e in events
    ]
    batch = UnreadHandlerBatch(UUID(int=1), LONG_AGO, LONG_AGO, "tracking", records)
    message = SimpleNamespace(value=batch, topic=topic, partition=3, offset=42)
    return Origins([cast(Taken, message)])


async def settle_as(settlement: Settlement, events: Sequence[Event], outcome: Outcome) -> list[Settled]:
    """Settle events that all got the same outcome."""
    return await settlement.settle("tracking", [Settled(event, outcome) for event in events], None, origins(events))


async def bury(database: Database, project_id: UUID, *types: str, outcome: Outcome = FAILED) -> list[UUID]:
    """Store events and have them fail; return their ids, which are their letters'."""
    ids = await store(database, project_id, *types)
    await settle_as(Settlement(database), await events_of(database, ids), outcome)
    return ids


async def letters_of(database: Database, project_id: UUID, **wanted: Any) -> list[StoredLetter]:
    """Read the letters of a project as a tenant does."""
    async with database.for_project(project_id) as connection:
        page = await list_letters(connection, project_id, limit=200, wanted=LetterFilter(**wanted))
    return page.items
