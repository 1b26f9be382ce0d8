"""The dead letters of messages that nobody could read: no project's, seen by operators only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from boost_streams.errors import NotFound
from db.pool import Connection

_COLUMNS = 'd.id, d.status, d.topic, d.partition, d."offset", d.message, d.first_failed_at'
_LIST = f"""
SELECT {_COLUMNS}, NULL::bytea AS raw FROM dead_letters d
WHERE d.project_id IS NULL ORDER BY d.last_failed_at DESC, d.id DESC LIMIT $1
"""  # noqa: S608 - only column names are put in
_BY_ID = f"SELECT {_COLUMNS}, d.raw FROM dead_letters d WHERE d.project_id IS NULL AND d.id = $1"  # noqa: S608
_DISCARD = """
WITH locked AS (
    SELECT d.id FROM dead_letters d
    WHERE d.project_id IS NULL AND d.id = ANY($1::uuid[]) AND d.status = 'open' ORDER BY d.id FOR UPDATE)
UPDATE dead_letters d SET status = 'discarded', closed_at = now()
FROM locked l WHERE d.project_id IS NULL AND d.id = l.id
"""


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A message that could not be decoded, with where it stood. `raw` is its beginning, None in a list."""

    id: UUID
    status: str
    topic: str
    partition: int
    offset: int
    message: str
    first_failed_at: dt.datetime
    raw: bytes | None


async def list_unreadable_across_projects(connection: Connection, limit: int) -> list[UnreadableMessage]:
    """List messages that could not be read, newest first."""
    return [UnreadableMessage(**dict(row)) for row in await connection.fetch(_LIST, limit)]


async def get_unreadable_across_projects(connection: Connection, letter_id: UUID) -> UnreadableMessage:
    """Return one message that could not be read, with its beginning.

    Raises:
        NotFound: There is none with this id.
    """
    row = await connection.fetchrow(_BY_ID, letter_id)
    if row is None:
        raise NotFound(f"there is no unreadable message {letter_id}")
    return UnreadableMessage(**dict(row))


async def discard_unreadable_across_projects(connection: Connection, ids: Sequence[UUID]) -> int:
    """Close the letters of such messages; return how many."""
    tag: str = await connection.execute(_DISCARD, list(ids))
    return int(tag.rpartition(" ")[2])
