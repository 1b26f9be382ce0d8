"""Stores what a group commit takes in: events, their messageId keys and their batch row, in one transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from boost_streams.event_id import IDS_PER_BATCH, event_ids, last_of
from db.new_events import NewEvent, row_list_across_projects, rows_of
from db.pool import Connection

_STORE = """
WITH stored AS (
    INSERT INTO events
        (id, project_id, event_type, user_id, anonymous_id, session_id, message_id, payload, occurred_at,
         original_timestamp)
    SELECT t.id, t.project_id, t.event_type, t.user_id, t.anonymous_id, t.session_id, t.message_id, t.payload,
           coalesce(t.occurred_at, now()), t.original_timestamp
    FROM unnest($1::boost_new_event[]) AS t
)
INSERT INTO event_batches (id, worker_id, seq, project_ids, first_id, last_id, unsettled, due_at)
VALUES ($2, $3, $4, $5, $2, $6, $7, now() + make_interval(secs => $8))
RETURNING created_at
"""

# Which generation is current must not change before this commit is done: the swap takes this lock exclusively.
GENERATION_LOCK = 0x6B657973  # "keys"
# The same for events some of which have keys: those whose key is known are left out. NOT IN looks a key up in a hash
# table of the known ones; NOT EXISTS would be a join, which goes through all of them for each event (see db/pool.py).
_STORE_WITH_KEYS = """
WITH known AS MATERIALIZED (
    SELECT k.known_key, k.first_id
    FROM (SELECT array_agg(t.key) AS keys, array_agg(t.id) AS ids
          FROM unnest($1::boost_new_event[]) AS t WHERE t.key IS NOT NULL) AS l
    CROSS JOIN LATERAL boost_claim_keys($9, l.keys, l.ids) AS k
), stored AS (
    INSERT INTO events
        (id, project_id, event_type, user_id, anonymous_id, session_id, message_id, payload, occurred_at,
         original_timestamp)
    SELECT t.id, t.project_id, t.event_type, t.user_id, t.anonymous_id, t.session_id, t.message_id, t.payload,
           coalesce(t.occurred_at, now()), t.original_timestamp
    FROM unnest($1::boost_new_event[]) AS t
    WHERE t.key IS NULL OR t.key NOT IN (SELECT k.known_key FROM known k)
), batch AS (
    INSERT INTO event_batches (id, worker_id, seq, project_ids, first_id, last_id, unsettled, due_at)
    SELECT $2, $3, $4, $5, $2, $6, n.unsettled, now() + make_interval(secs => $8)
    FROM (SELECT $7::int - (SELECT count(*)::int FROM known)) AS n (unsettled)
    WHERE n.unsettled > 0
    RETURNING created_at
)
SELECT (SELECT created_at FROM batch), (SELECT array_agg(known_key) FROM known) AS known_keys,
       (SELECT array_agg(first_id) FROM known) AS first_ids
"""

# The swap: the older generation is emptied and becomes the current one.
# Commits wait while the swap waits, so it gives way to a reader (a dump, say) and is tried again later.
_BRIEFLY = "SET LOCAL lock_timeout = '200ms'"
_LOCK_GENERATION = "SELECT pg_advisory_xact_lock($1)"
_GENERATION_IS_OLD = """
SELECT current FROM event_key_generation WHERE created_at < now() - make_interval(days => $1) FOR UPDATE
"""
_EMPTY_A = "TRUNCATE event_keys_a"
_EMPTY_B = "TRUNCATE event_keys_b"
_SWAP = "UPDATE event_key_generation SET current = $1, created_at = now()"


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What one commit stored: when, and which events it did not, by position, with the ids of those that came first.

    The ids of what it stored are the batch's, by position (`boost_streams/event_id.py:event_ids`).
    """

    batch_id: UUID
    committed_at: dt.datetime | None
    duplicates: Mapping[int, UUID]


async def store_batch_across_projects(
    connection: Connection,
    batch_id: UUID,
    events: Sequence[NewEvent],
    *,
    worker_id: UUID,
    seq: int,
    stuck_after_seconds: float,
) -> StoredBatch:
    """Store events and their batch row: one statement, and so one transaction. The caller holds a pipeline connection.

    Events whose messageId is known are not stored again; with none left, no batch row is written and
    `committed_at` is None.

    Raises:
        asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError: One of
            the events cannot be stored; nothing was.
        ValueError: More events than a batch owns ids (65,536).
    """
    if len(events) > IDS_PER_BATCH:
        raise ValueError(f"a batch owns {IDS_PER_BATCH} ids, not {len(events)}")
    rows, keys = rows_of(batch_id, events)
    keyed = any(keys)
    repeated = _repeated(keys) if keyed else {}
    if repeated:
        rows = [row for position, row in enumerate(rows) if position not in repeated]
    # Events of a request share one object; to look at it is cheaper than to hash what it says.
    projects = sorted(set({id(event.project_id): event.project_id for event in events}.values()))
    parameters = (
        await row_list_across_projects(connection, rows),
        batch_id,
        worker_id,
        seq,
        projects,
        last_of(batch_id),
        len(rows),
        stuck_after_seconds,
    )
    if not keyed:
        return StoredBatch(batch_id, await connection.fetchval(_STORE, *parameters), {})
    row = await connection.fetchrow(_STORE_WITH_KEYS, *parameters, GENERATION_LOCK)
    assert row is not None
    first_ids = dict(zip(row["known_keys"] or (), row["first_ids"] or (), strict=True))
    if not (first_ids or repeated):
        return StoredBatch(batch_id, row["created_at"], {})
    known = {key.bytes: first_id for key, first_id in first_ids.items()}
    duplicates = {position: known[key] for position, key in enumerate(keys) if key in known}
    if repeated:
        given = event_ids(batch_id, len(events))
        duplicates |= {position: duplicates.get(first, given[first]) for position, first in repeated.items()}
    return StoredBatch(batch_id, row["created_at"], duplicates)


def _repeated(keys: Sequence[bytes | None]) -> dict[int, int]:
    """Return the positions whose key stands further ahead already, with the first position that has it."""
    first: dict[bytes, int] = {}
    repeated = {}
    for position, key in enumerate(keys):
        if key is not None and (earlier := first.setdefault(key, position)) != position:
            repeated[position] = earlier
    return repeated


async def swap_key_generations_across_projects(connection: Connection, idempotency_days: int) -> bool:
    """Start a new generation of messageId keys when the current one is old enough; forget the oldest.

    A key is remembered for at least `idempotency_days` and for less than twice as long. Safe to call from many
    workers at once. Returns whether it swapped.
    """
    try:
        async with connection.transaction():
            await connection.execute(_BRIEFLY)
            await connection.execute(_LOCK_GENERATION, GENERATION_LOCK)
            current = await connection.fetchval(_GENERATION_IS_OLD, idempotency_days)
            if current is None:
                return False
            await connection.execute(_EMPTY_B if current == b"a" else _EMPTY_A)
            await connection.execute(_SWAP, b"b" if current == b"a" else b"a")
    except asyncpg.LockNotAvailableError:
        return False
    return True
