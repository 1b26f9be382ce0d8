"""Looks for events that nothing accounts for: pending, but owned by no batch and no retry.

Each question is one statement, so one snapshot: an event and what accounts for it are written in the same
transaction, and a worker that goes on working meanwhile is no reason to report one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

from boost_streams.event_id import bounds_of_day
from db.partitions import existing_days, partition_name
from db.pool import Connection, Database

#: How many blocks of a partition (8 KiB each) one statement reads.
BLOCKS_AT_A_TIME = 4_000
#: How many batches one statement counts.
BATCHES_AT_A_TIME = 500

_BLOCKS = """
SELECT coalesce(pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint, 0)::bigint
"""
# The id of an event's batch is its own with the low 16 bits cleared: the last four hexadecimal digits.
_UNACCOUNTED = """
SELECT e.project_id, e.id AS event_id, e.attempt FROM events e
LEFT JOIN event_batches b ON b.id = (left(e.id::text, 32) || '0000')::uuid AND e.attempt = 0
LEFT JOIN event_retries r
    ON r.project_id = e.project_id AND r.event_id = e.id AND r.attempt = e.attempt AND e.attempt > 0
WHERE e.id >= $1 AND e.id < $2 AND e.ctid >= $3::tid AND e.ctid < $4::tid AND e.status = 'pending'
    AND b.id IS NULL AND r.event_id IS NULL
ORDER BY e.id
"""
_BATCH_COUNTS = """
SELECT b.id AS batch_id, b.unsettled, (
    SELECT count(*) FROM events e
    WHERE e.project_id = ANY(b.project_ids) AND e.id BETWEEN b.first_id AND b.last_id
        AND e.status = 'pending' AND e.attempt = 0) AS pending
FROM event_batches b WHERE b.id > $1 ORDER BY b.id LIMIT $2
"""
_NO_BATCH = UUID(int=0)


@dataclass(frozen=True, slots=True)
class UnaccountedEvent:
    """A pending event that no batch (attempt 0) and no retry (later attempts) will hand over."""

    project_id: UUID
    event_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class BatchCount:
    """How many events a batch says are unsettled, and how many are."""

    batch_id: UUID
    unsettled: int
    pending: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a day's partition: the blocks from `first` up to, not including, `end`."""

    day: dt.date
    first: int
    end: int


async def chunks_across_projects(connection: Connection, blocks_at_a_time: int = BLOCKS_AT_A_TIME) -> list[Chunk]:
    """Cut every partition of `events`, as large as it is now, into chunks, oldest day first."""
    chunks = []
    for day in sorted(await existing_days(connection)):
        blocks: int = await connection.fetchval(_BLOCKS, partition_name(day))
        chunks += [
            Chunk(day, first, min(first + blocks_at_a_time, blocks)) for first in range(0, blocks, blocks_at_a_time)
        ]
    return chunks


async def unaccounted_events_across_projects(connection: Connection, chunk: Chunk) -> list[UnaccountedEvent]:
    """Return the events of a chunk that nothing accounts for."""
    rows = await connection.fetch(_UNACCOUNTED, *bounds_of_day(chunk.day), (chunk.first, 0), (chunk.end, 0))
    return [UnaccountedEvent(**dict(row)) for row in rows]


async def miscounted_batches_across_projects(database: Database) -> AsyncIterator[BatchCount]:
    """Yield the batches whose `unsettled` is not the number of their pending events.

    One that counts too many is set right by the sweeper when it is due: events may be deleted with their
    project. One that counts too few loses its row, and with it its events, too early.
    """
    after = _NO_BATCH
    while True:
        async with database.across_projects() as connection:
            rows = await connection.fetch(_BATCH_COUNTS, after, BATCHES_AT_A_TIME)
        for row in rows:
            if row["unsettled"] != row["pending"]:
                yield BatchCount(**dict(row))
        if len(rows) < BATCHES_AT_A_TIME:
            return
        after = rows[-1]["batch_id"]
