"""Stores what a group commit takes in: events, their messageId keys and their batch row, in one transaction."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import msgspec

from boost_streams.event_id import last_of
from db.pool import Connection

_STORE = """
WITH stored AS (
    INSERT INTO events
        (id, project_id, event_type, user_id, anonymous_id, session_id, message_id, payload, occurred_at,
         original_timestamp)
    SELECT t.id, t.project_id, t.event_type, t.user_id, t.anonymous_id, t.session_id, t.message_id, t.payload,
           coalesce(t.occurred_at, now()), t.original_timestamp
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[],
                $9::timestamptz[], $17::timestamptz[])
        AS t (id, project_id, event_type, user_id, anonymous_id, session_id, message_id, payload, occurred_at,
              original_timestamp)
)
INSERT INTO event_batches (id, worker_id, seq, project_ids, first_id, last_id, unsettled, due_at)
VALUES ($10, $11, $12, $13, $10, $14, $15, now() + make_interval(secs => $16))
RETURNING created_at
"""

# Which generation is current must not change before this commit is done: the swap takes this lock exclusively.
GENERATION_LOCK = 0x6B657973  # "keys"
_CURRENT_GENERATION = "SELECT boost_current_key_generation($1)"
_CLAIM_KEYS = """
INSERT INTO event_keys_{current} (key, event_id)
SELECT t.key, t.event_id FROM unnest($1::uuid[], $2::uuid[]) AS t (key, event_id)
WHERE NOT EXISTS (SELECT 1 FROM event_keys_{previous} p WHERE p.key = t.key)
ORDER BY t.key
ON CONFLICT (key) DO NOTHING
RETURNING key
"""
_CLAIM_KEYS_A = _CLAIM_KEYS.format(current="a", previous="b")
_CLAIM_KEYS_B = _CLAIM_KEYS.format(current="b", previous="a")
_KNOWN_KEYS = """
SELECT key, event_id FROM event_keys_a WHERE key = ANY($1::uuid[])
UNION ALL
SELECT key, event_id FROM event_keys_b WHERE key = ANY($1::uuid[])
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


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """A validated event on its way in. `payload` holds the JSON object's bytes; `occurred_at` may be unknown.

    `original_timestamp` is what the client said where `occurred_at` is not that.
    """

    project_id: UUID
    event_type: str
    payload: bytes
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    message_id: str | None = None
    occurred_at: dt.datetime | None = None
    original_timestamp: dt.datetime | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory and on the wire."""
        texts = (self.event_type, self.user_id, self.anonymous_id, self.session_id, self.message_id)
        return len(self.payload) + 256 + sum(len(text) for text in texts if text)


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What one commit stored: the ids given (by position of the input) and the batch's time."""

    batch_id: UUID
    committed_at: dt.datetime | None
    event_ids: list[UUID]
    duplicates: frozenset[int]


def message_key(project_id: UUID, message_id: str) -> UUID:
    """Return the 16-byte key of a (project, messageId): BLAKE2b over both."""
    return UUID(bytes=hashlib.blake2b(project_id.bytes + message_id.encode(), digest_size=16).digest())


async def claim_message_ids_across_projects(
    connection: Connection, events: Sequence[NewEvent], ids: Sequence[UUID]
) -> dict[int, UUID]:
    """Claim the messageIds of a commit inside its transaction.

    Returns:
        For each position whose messageId is known already (from an earlier commit, or from an earlier position
        of this one), the id of the first event that carried it.
    """
    first_position: dict[UUID, int] = {}
    repeated: dict[int, UUID] = {}
    for position, event in enumerate(events):
        if event.message_id is None:
            continue
        key = message_key(event.project_id, event.message_id)
        if key in first_position:
            repeated[position] = key
        else:
            first_position[key] = position
    if not first_position:
        return {}
    keys = sorted(first_position)
    current = await connection.fetchval(_CURRENT_GENERATION, GENERATION_LOCK)
    claim = _CLAIM_KEYS_A if current == b"a" else _CLAIM_KEYS_B
    claimed = {row["key"] for row in await connection.fetch(claim, keys, [ids[first_position[key]] for key in keys])}
    known: dict[UUID, UUID] = {key: ids[first_position[key]] for key in claimed}
    unclaimed = [key for key in keys if key not in claimed]
    if unclaimed:
        known.update((row["key"], row["event_id"]) for row in await connection.fetch(_KNOWN_KEYS, unclaimed))
    duplicates = {first_position[key]: known[key] for key in unclaimed}
    duplicates.update((position, known[key]) for position, key in repeated.items())
    return duplicates


async def store_batch_across_projects(
    connection: Connection,
    batch_id: UUID,
    ids: Sequence[UUID],
    events: Sequence[NewEvent],
    *,
    worker_id: UUID,
    seq: int,
    stuck_after_seconds: float,
) -> StoredBatch:
    """Store events and their batch row in one transaction. The caller holds a pipeline connection.

    Events whose messageId is known are not stored again; with none left, no batch row is written and
    `committed_at` is None.

    Raises:
        asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError: One of
            the events cannot be stored; nothing was.
    """
    if all(event.message_id is None for event in events):
        stored_at = await _store(connection, batch_id, list(ids), events, worker_id, seq, stuck_after_seconds)
        return StoredBatch(batch_id, stored_at, list(ids), frozenset())
    async with connection.transaction():
        duplicates = await claim_message_ids_across_projects(connection, events, ids)
        fresh = [position for position in range(len(events)) if position not in duplicates]
        committed_at: dt.datetime | None = None
        if fresh:
            committed_at = await _store(
                connection,
                batch_id,
                [ids[position] for position in fresh],
                [events[position] for position in fresh],
                worker_id,
                seq,
                stuck_after_seconds,
            )
    given = [duplicates.get(position, event_id) for position, event_id in enumerate(ids)]
    return StoredBatch(batch_id, committed_at, given, frozenset(duplicates))


async def _store(
    connection: Connection,
    batch_id: UUID,
    ids: list[UUID],
    events: Sequence[NewEvent],
    worker_id: UUID,
    seq: int,
    stuck_after_seconds: float,
) -> dt.datetime:
    committed_at: dt.datetime = await connection.fetchval(
        _STORE,
        ids,
        [event.project_id for event in events],
        [event.event_type for event in events],
        [event.user_id for event in events],
        [event.anonymous_id for event in events],
        [event.session_id for event in events],
        [event.message_id for event in events],
        [event.payload for event in events],
        [event.occurred_at for event in events],
        batch_id,
        worker_id,
        seq,
        sorted({event.project_id for event in events}),
        last_of(batch_id),
        len(ids),
        stuck_after_seconds,
        [event.original_timestamp for event in events],
    )
    return committed_at


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
