"""Rows that are written here are, to PostgreSQL, what the driver would have written."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from boost_streams.event_id import IDS_PER_BATCH, event_ids, new_batch_id
from db.intake import store_batch_across_projects
from db.new_events import NewEvent, message_key, row_list_across_projects, rows_of
from db.pool import Database
from tests.support.projects import make_project

ONE, OTHER = UUID(int=1), UUID(int=2)
NOW = dt.datetime(2026, 5, 4, 12, 0, 0, 120_001, tzinfo=dt.UTC)
FAR = dt.datetime(2100, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
EARLY = dt.datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=dt.UTC)
ELSEWHERE = dt.datetime(2026, 5, 4, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=-7, minutes=-30)))
EVENTS = [
    NewEvent(ONE, "page_view", b'{"url": "/", "n": 1.10, "big": 123456789012345678901234567890}'),
    NewEvent(ONE, "click", b"{}", "user", "anonymous", "session", "message", NOW, FAR),
    NewEvent(OTHER, "click", b'{"a": "\xc3\xa9\xf0\x9f\x98\x80"}', user_id="é😀" * 128, message_id="😀" * 256),
    NewEvent(OTHER, "é" * 200, b"{}", session_id="s", occurred_at=EARLY, original_timestamp=NOW),
    NewEvent(UUID(int=1), "page_view", b'{"pad": "' + b"x" * 70_000 + b'"}', anonymous_id="", occurred_at=ELSEWHERE),
    NewEvent(OTHER, "longer than a request may send", b"{}", user_id="u" * 5_000, message_id="m" * 1_025),
    NewEvent(OTHER, "end of 1999", b"{}", occurred_at=dt.datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)),
]
_READ = "SELECT t, to_jsonb(t)::text FROM unnest($1::boost_new_event[]) AS t"


def _tuples(batch_id: UUID, events: list[NewEvent]) -> list[tuple[Any, ...]]:
    return [
        (
            event_id,
            event.project_id,
            event.event_type,
            event.user_id,
            event.anonymous_id,
            event.session_id,
            event.message_id,
            event.payload.decode(),
            event.occurred_at,
            event.original_timestamp,
            event.message_id and message_key(event.project_id, event.message_id),
        )
        for event_id, event in zip(event_ids(batch_id, len(events)), events, strict=True)
    ]


@pytest.mark.parametrize("count", [0, 1, len(EVENTS), 300])
async def test_a_list_of_rows_is_what_the_driver_would_write(database: Database, database_url: str, count: int) -> None:
    batch_id, events = new_batch_id(), (EVENTS * 50)[:count]
    rows, keys = rows_of(batch_id, events)
    assert keys == [e.message_id and message_key(e.project_id, e.message_id).bytes for e in events]
    async with database.across_projects() as connection:
        ours = await connection.fetch(_READ, await row_list_across_projects(connection, rows))
    plain = await asyncpg.connect(database_url)
    try:
        theirs = await plain.fetch(_READ, _tuples(batch_id, events))
    finally:
        await plain.close()
    assert len(theirs) == count
    assert [row[1] for row in ours] == [row[1] for row in theirs]
    times = [(row[0]["occurred_at"], row[0]["original_timestamp"]) for row in ours]
    assert times == [(event.occurred_at, event.original_timestamp) for event in events]


async def test_every_connection_of_a_pool_takes_them_and_other_lists_as_before(database: Database) -> None:
    batch_id = new_batch_id()
    rows, _ = rows_of(batch_id, EVENTS[:1])
    async with database.across_projects() as one, database.across_projects() as other:
        for connection in (one, one, other):
            (row,) = await connection.fetch(_READ, await row_list_across_projects(connection, rows))
            assert row[0]["id"] == batch_id
            assert await connection.fetchval("SELECT $1::uuid[]", [ONE, OTHER]) == [ONE, OTHER]


async def test_a_text_that_no_json_can_hold_is_refused_where_it_is_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        rows_of(new_batch_id(), [NewEvent(ONE, "x", b"{}", user_id="\ud800")])


async def test_a_batch_has_no_more_events_than_ids(database: Database) -> None:
    project = await make_project(database)
    events = [NewEvent(project.id, "x", b"{}")] * (IDS_PER_BATCH + 1)
    async with database.across_projects() as connection:
        with pytest.raises(ValueError, match="owns 65536 ids, not 65537"):
            await store_batch_across_projects(
                connection, new_batch_id(), events, worker_id=ONE, seq=1, stuck_after_seconds=60
            )
        assert await connection.fetchval("SELECT count(*) FROM events") == 0
