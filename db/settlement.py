"""Moves events on: the status change, the batch's count and the retries, inside the caller's transaction.

Locks are taken in one order by every settlement: events (by project and id; on servers before PostgreSQL 17 by batch,
project and id), batches, retries, dead letters, end users, rollups; each list sorted.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

import asyncpg

from boost_streams.event_id import BATCH_BITS, batch_of
from db.burial import Burial, burial_parameters
from db.end_users import Sighting, sighting_rows
from db.pool import Connection
from db.rollups import Addition, RollupKey, addition_rows

# One event, by its key: no plan can go wrong. What is moved in one call is moved by _SETTLE.
_MOVE = """
UPDATE events e SET
    status = $4, attempt = e.attempt + $5, error = $6, settled_at = CASE WHEN $4 = 'pending' THEN NULL ELSE now() END,
    cutover = nullif($7::int, 0)
WHERE e.project_id = $1 AND e.id = $2 AND e.status = 'pending' AND e.attempt = $3
RETURNING e.id, $3::int AS attempt
"""
# The most common case in one call, which is one transaction (db/migrations/sql/0011_settle_in_one_statement.sql).
_SETTLE = """
SELECT boost_settle_rows($1::uuid[], $2::jsonb[], $3::uuid[], $4::int[], $5::uuid[], $6::int[], $7::boost_sighting[],
    $8::boost_counted[])
"""
# The same where some of the events failed: their dead letters are written as well.
_SETTLE_WITH_FAILURES = """
SELECT boost_settle_rows($1::uuid[], $2::jsonb[], $3::uuid[], $4::int[], $5::uuid[], $6::int[], $7::boost_sighting[],
    $8::boost_counted[],
    $9::uuid[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::int[],
    $17::text[], $18::int[], $19::bigint[])
"""
_SOME_MOVED_BEFORE = "BST01"
#: From this release of PostgreSQL on `_SETTLE` moves its events in one scan, in the order of their primary key.
_IN_ONE_SCAN = 17
#: Ids sort as numbers: a `UUID` compares in Python.
_NUMBER = attrgetter("int")
_TAKE_OFF_BATCHES = "SELECT boost_take_off_batches($1::uuid[], $2::int[])"
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
INSERT INTO event_retries AS r (project_id, event_id, attempt, reason, due_at, trying_since)
SELECT t.project_id, t.event_id, t.attempt, t.reason, now() + make_interval(secs => t.after_seconds), now()
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::float8[])
    AS t (project_id, event_id, attempt, reason, after_seconds)
ORDER BY t.project_id, t.event_id
ON CONFLICT (project_id, event_id) DO UPDATE SET
    attempt = excluded.attempt, reason = excluded.reason, due_at = excluded.due_at,
    trying_since = coalesce(r.trying_since, excluded.trying_since),
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
    """Which moves happened (event, attempt), and which events had been counted as failed before they were retried."""

    attempts: frozenset[tuple[UUID, int]]
    were_failed: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class FirstAttempts:
    """Events of attempt 0 that are done, with their effects added up as if every one of them moved.

    `errors` says of an event, by its id, why it failed; what it does not name is processed. Each id comes once.
    """

    ids_of_projects: Mapping[UUID, Sequence[UUID]]
    errors: Mapping[UUID, bytes]
    sightings: Sequence[Sighting]
    additions: Mapping[RollupKey, Addition]


async def settle_across_projects(connection: Connection, done: FirstAttempts, burials: Sequence[Burial] = ()) -> bool:
    """Settle events, write their effects and bury those that failed: one statement, and so one transaction.

    Returns:
        False when some of the events had been moved before: then nothing happened.
    """
    try:
        if burials:
            await connection.execute(_SETTLE_WITH_FAILURES, *_parameters(done), *burial_parameters(burials))
        else:
            await connection.execute(_SETTLE, *_parameters(done))
    except asyncpg.PostgresError as error:
        if error.sqlstate == _SOME_MOVED_BEFORE:
            return False
        raise
    return True


def _parameters(done: FirstAttempts) -> tuple[object, ...]:
    batches: dict[int, list[UUID]] = {}
    tenants: dict[int, list[UUID]] = {}
    for project_id, ids in done.ids_of_projects.items():
        for event_id in ids:
            batch = event_id.int >> BATCH_BITS
            if batch not in batches:
                batches[batch], tenants[batch] = [event_id], [project_id]
                continue
            batches[batch].append(event_id)
            if tenants[batch][-1] is not project_id:
                tenants[batch].append(project_id)
    order = sorted(batches)
    ids_in_order = [event_id for batch in order for event_id in sorted(batches[batch], key=_NUMBER)]
    return (
        ids_in_order,
        [done.errors.get(event_id) for event_id in ids_in_order] if done.errors else None,
        [UUID(int=batch << BATCH_BITS) for batch in order],
        [len(batches[batch]) for batch in order],
        [project_id for batch in order for project_id in tenants[batch]],
        [len(tenants[batch]) for batch in order],
        sighting_rows(done.sightings),
        addition_rows(done.additions),
    )


def _lock_order(major: int, move: tuple[UUID, UUID, int]) -> tuple[int, int, int, int]:
    """Return the place of a move in the order in which the server's release has events locked."""
    event_id, project_id, attempt = move
    number = event_id.int
    batch = 0 if major >= _IN_ONE_SCAN else number >> BATCH_BITS
    return batch, project_id.int, number, attempt


async def move_events_across_projects(connection: Connection, moves: Iterable[Move], cutover: int = 0) -> Moved:
    """Move events that are still pending at the attempt named; the others were moved before and stay.

    Runs inside the caller's transaction: effects are written there, for the moved ones only, and with the same
    `cutover`, the newest there was when the transaction began (`newest_cutover_across_projects`).
    """
    # Messages of several attempts at an event may come together: at most one of them is at the attempt where it stands.
    distinct = {(m.event_id, m.project_id, m.attempt): m for m in moves}
    lock_order = functools.partial(_lock_order, connection.get_server_version().major)
    ordered = [distinct[move] for move in sorted(distinct, key=lock_order)]
    rows = await connection.fetchmany(
        _MOVE,
        [
            (m.project_id, m.event_id, m.attempt, m.status, 1 if m.status == "pending" else 0, m.error, cutover)
            for m in ordered
        ],
    )
    moved = {(row["id"], row["attempt"]) for row in rows}
    happened = [move for move in ordered if (move.event_id, move.attempt) in moved]
    were_failed = await _give_up_ownership(connection, happened)
    return Moved(frozenset(moved), frozenset(were_failed))


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
