"""Moves events on: the status change, the batch's count and the retries, inside the caller's transaction.

Locks are taken in one order by every settlement: events, batches, retries, end users, rollups; each list sorted.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from boost_streams.event_id import batch_of, day_of
from db.pool import Connection

# $7, $8 and $9 repeat what the list says, so that whatever plan is cached, one partition is looked at, through its
# primary key, project first; the pool's planner settings see to it that each event of the list is looked up by its
# key (tests/integration/test_plans.py).
_MOVE = """
UPDATE events e SET
    status = t.status, attempt = e.attempt + t.again, error = t.error,
    settled_at = CASE WHEN t.status = 'pending' THEN NULL ELSE now() END
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::int[], $6::jsonb[])
    AS t (project_id, id, attempt, status, again, error)
WHERE e.project_id = t.project_id AND e.id = t.id
    AND e.id BETWEEN $7 AND $8 AND e.project_id = ANY($9::uuid[])
    AND e.status = 'pending' AND e.attempt = t.attempt
RETURNING e.id
"""
_TAKE_OFF_BATCHES = """
WITH locked AS (
    SELECT b.id, b.unsettled, t.moved FROM event_batches b
    JOIN unnest($1::uuid[], $2::int[]) AS t (id, moved) ON t.id = b.id
    ORDER BY b.id FOR UPDATE OF b
), gone AS (
    DELETE FROM event_batches b USING locked l WHERE b.id = l.id AND l.unsettled <= l.moved
)
UPDATE event_batches b SET unsettled = b.unsettled - l.moved FROM locked l
WHERE b.id = l.id AND l.unsettled > l.moved
"""
_DROP_RETRIES = """
WITH locked AS (
    SELECT r.project_id, r.event_id FROM event_retries r
    JOIN unnest($1::uuid[], $2::uuid[], $3::int[]) AS t (project_id, event_id, attempt)
        ON r.project_id = t.project_id AND r.event_id = t.event_id AND r.attempt = t.attempt
    ORDER BY r.project_id, r.event_id FOR UPDATE OF r
)
DELETE FROM event_retries r USING locked l WHERE r.project_id = l.project_id AND r.event_id = l.event_id
RETURNING r.event_id, r.was_failed
"""
_ADD_RETRIES = """
INSERT INTO event_retries AS r (project_id, event_id, attempt, reason, due_at)
SELECT t.project_id, t.event_id, t.attempt, t.reason, now() + make_interval(secs => t.after_seconds)
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::float8[])
    AS t (project_id, event_id, attempt, reason, after_seconds)
ORDER BY t.project_id, t.event_id
ON CONFLICT (project_id, event_id) DO UPDATE SET
    attempt = excluded.attempt, reason = excluded.reason, due_at = excluded.due_at,
    last_published_at = NULL, publish_count = 0, worker_id = NULL, seq = NULL
"""


@dataclass(frozen=True, slots=True)
class Move:
    """Where one event goes. With `status="pending"` it is to be tried again after `retry_after` seconds."""

    project_id: UUID
    event_id: UUID
    attempt: int
    status: Literal["processed", "failed", "pending"]
    error: bytes | None = None
    retry_after: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """The ids of the events that moved, and which of them had been counted as failed before somebody retried them."""

    ids: frozenset[UUID]
    were_failed: frozenset[UUID]


async def move_events_across_projects(connection: Connection, moves: Iterable[Move]) -> Moved:
    """Move events that are still pending at the attempt named; the others were moved before and stay.

    Runs inside the caller's transaction: effects are written there, for the moved ones only.

    """
    ordered = sorted({(m.project_id, m.event_id): m for m in moves}.values(), key=lambda m: (m.project_id, m.event_id))
    by_day: dict[dt.date, list[Move]] = defaultdict(list)
    for move in ordered:
        by_day[day_of(move.event_id)].append(move)
    moved: set[UUID] = set()
    for _, of_day in sorted(by_day.items()):
        moved |= await _move_within_a_day(connection, of_day)
    were_failed = await _give_up_ownership(connection, [move for move in ordered if move.event_id in moved])
    return Moved(frozenset(moved), frozenset(were_failed))


async def _move_within_a_day(connection: Connection, moves: Sequence[Move]) -> set[UUID]:
    ids = [move.event_id for move in moves]
    rows = await connection.fetch(
        _MOVE,
        [move.project_id for move in moves],
        ids,
        [move.attempt for move in moves],
        [move.status for move in moves],
        [1 if move.status == "pending" else 0 for move in moves],
        [move.error for move in moves],
        min(ids),
        max(ids),
        sorted({move.project_id for move in moves}),
    )
    return {row["id"] for row in rows}


async def _give_up_ownership(connection: Connection, moved: Sequence[Move]) -> list[UUID]:
    """Take moved events off their batch (attempt 0) or off the retries, and put new retries in.

    Returns:
        The ids of the events taken off the retries that had failed before.
    """
    dropped: list[Any] = []
    counts = Counter(batch_of(move.event_id) for move in moved if move.attempt == 0)
    if counts:
        batch_ids = sorted(counts)
        await connection.execute(_TAKE_OFF_BATCHES, batch_ids, [counts[batch_id] for batch_id in batch_ids])
    retried = [move for move in moved if move.attempt > 0 and move.status != "pending"]
    if retried:
        dropped = await connection.fetch(
            _DROP_RETRIES,
            [move.project_id for move in retried],
            [move.event_id for move in retried],
            [move.attempt for move in retried],
        )
    again = [move for move in moved if move.status == "pending"]
    if again:
        await connection.execute(
            _ADD_RETRIES,
            [move.project_id for move in again],
            [move.event_id for move in again],
            [move.attempt + 1 for move in again],
            [move.reason for move in again],
            [move.retry_after for move in again],
        )
    return [row["event_id"] for row in dropped if row["was_failed"]]
