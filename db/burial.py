"""Writes dead letters in the transaction that moves their events; closes them when the events are processed after all.

A letter is written by whoever holds the lock on its event's row, so two never wait for each other in a circle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from db.pool import Connection

#: How much of an unreadable message is kept (bytes), and of what is said about a failure (characters).
MOST_KEPT_BYTES = 256 * 1024
MOST_MESSAGE_CHARACTERS = 2_000
#: The code of a message that could not be read.
MALFORMED = "malformed"

_BURY = """
SELECT boost_bury($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[],
    $9::text[], $10::int[], $11::bigint[])
"""
_RESOLVE = """
UPDATE dead_letters d SET status = 'resolved', closed_at = now()
FROM unnest($1::uuid[], $2::uuid[]) AS t (project_id, id)
WHERE d.project_id = t.project_id AND d.id = t.id AND d.status <> 'resolved'
"""
_BURY_MESSAGE = """
INSERT INTO dead_letters (project_id, id, code, message, attempts, topic, partition, "offset", raw)
VALUES (NULL, $1, $2, $3, 1, $4, $5, $6, $7) ON CONFLICT (project_id, id) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message stood on the broker."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Burial:
    """One event that failed: what its dead letter says. `attempts` is how often a handler took it."""

    project_id: UUID
    event_id: UUID
    event_type: str
    handler: str
    code: str
    field: str | None
    message: str
    attempts: int
    origin: Origin | None


def burial_parameters(burials: Iterable[Burial]) -> tuple[Sequence[object], ...]:
    """Return the lists of `boost_bury`, in the order of (project, id)."""
    rows = sorted(burials, key=lambda burial: (burial.project_id, burial.event_id))
    origins = [row.origin for row in rows]
    return (
        [row.project_id for row in rows],
        [row.event_id for row in rows],
        [row.event_type for row in rows],
        [row.handler for row in rows],
        [row.code for row in rows],
        [row.field for row in rows],
        [row.message[:MOST_MESSAGE_CHARACTERS] for row in rows],
        [row.attempts for row in rows],
        [origin and origin.topic for origin in origins],
        [None if origin is None else origin.partition for origin in origins],
        [None if origin is None else origin.offset for origin in origins],
    )


async def bury_across_projects(connection: Connection, burials: Sequence[Burial]) -> None:
    """Write the letters of events that the caller's transaction moved to `failed`; open again those that are there."""
    if burials:
        await connection.execute(_BURY, *burial_parameters(burials))


async def resolve_across_projects(connection: Connection, events: Sequence[tuple[UUID, UUID]]) -> None:
    """Close the letters of events (project, id) that the caller's transaction moved to `processed`."""
    if events:
        events = sorted(events)
        await connection.execute(_RESOLVE, [project for project, _ in events], [event for _, event in events])


async def bury_message_across_projects(connection: Connection, origin: Origin, raw: bytes, error: str) -> None:
    """Keep a message that nobody could read, for operators: it belongs to no project. Twice the same is kept once."""
    await connection.execute(
        _BURY_MESSAGE,
        message_letter_id(origin, raw),
        MALFORMED,
        error[:MOST_MESSAGE_CHARACTERS],
        origin.topic,
        origin.partition,
        origin.offset,
        raw[:MOST_KEPT_BYTES],
    )


def message_letter_id(origin: Origin, raw: bytes) -> UUID:
    """Return the id of an unreadable message's letter: BLAKE2b (16 bytes) over where it stood and what it said.

    What it said is part of it, because a topic that is made anew counts its offsets from 0 again.
    """
    place = f"{origin.topic}/{origin.partition}/{origin.offset}/".encode()
    return UUID(bytes=hashlib.blake2b(place + raw, digest_size=16).digest())
