"""A project's dead letters: one by its id, many newest first, counted, replayed and discarded a piece at a time.

Every statement runs in a tenant transaction (`Database.for_project`) and names the project as well. The letters of
messages that nobody could read are no project's: db/unreadable.py has those.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import msgspec

from boost_streams.errors import NotFound
from db.cursors import read_cursor, write_cursor
from db.events import retry_events
from db.pool import Connection

Status = Literal["open", "replaying", "resolved", "discarded"]

#: How many letters one page, or one look of a replay, takes in, whatever the filter leaves of them.
WINDOW = 2_000
#: How many letters one piece of a replay or of a discard changes: its locks are held for some 50 ms.
PIECE = 500

_OLDEST_ID = UUID(int=0)
_BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)

_COLUMNS = (
    "d.id, d.event_type, d.handler, d.status, d.code, d.field, d.message, d.attempts, d.first_failed_at, "
    'd.last_failed_at, d.topic, d.partition, d."offset", d.replays, d.history, d.closed_at'
)
_WANTED = (
    "($2::text IS NULL OR d.status = $2) AND ($3::text IS NULL OR d.event_type = $3) "
    "AND ($4::text IS NULL OR d.handler = $4) AND ($5::text IS NULL OR d.code = $5)"
)
_BY_ID = f"SELECT {_COLUMNS} FROM dead_letters d WHERE d.project_id = $1 AND d.id = $2"  # noqa: S608 - column names
_BY_IDS = f"SELECT {_COLUMNS} FROM dead_letters d WHERE d.project_id = $1 AND d.id = ANY($2::uuid[])"  # noqa: S608


def _looking(bounds: str, order: str) -> str:
    """Return a statement that looks at letters in an order until $10 are found, or $9 were looked at.

    It gives back what is wanted and the last one looked at, with its number, not a row for each.
    """
    return f"""
SELECT looked.id, looked.last_failed_at, looked.wanted, looked.number
FROM (
    SELECT d.id, d.last_failed_at, {_WANTED} AS wanted, row_number() OVER in_order AS number,
        lead(d.id) OVER in_order IS NULL AS is_last
    FROM (SELECT d.* FROM dead_letters d WHERE d.project_id = $1 AND {bounds} ORDER BY {order} LIMIT $9) d
    WINDOW in_order AS (ORDER BY {order})
) looked
WHERE looked.wanted OR looked.is_last ORDER BY {order} LIMIT $10
"""  # noqa: S608 - only conditions of our own are put in


_NEWEST_FIRST = _looking(
    "(d.last_failed_at, d.id) < ($6::timestamptz, $7::uuid) AND d.last_failed_at >= $8", "last_failed_at DESC, id DESC"
)
_OLDEST_FIRST = _looking(
    "(d.last_failed_at, d.id) > ($6::timestamptz, $7::uuid) AND d.last_failed_at < $8", "last_failed_at, id"
)
_COUNT = f"""
SELECT count(*) FROM dead_letters d
WHERE d.project_id = $1 AND {_WANTED} AND d.last_failed_at >= $6 AND d.last_failed_at < $7
"""  # noqa: S608 - only conditions of our own are put in
_IN_STATUS = """
SELECT d.id FROM dead_letters d
WHERE d.project_id = $1 AND d.id = ANY($2::uuid[]) AND d.status = ANY($3::text[]) ORDER BY d.id
"""
_DISCARD = """
WITH locked AS (
    SELECT d.id FROM dead_letters d
    WHERE d.project_id = $1 AND d.id = ANY($2::uuid[]) AND d.status = 'open' ORDER BY d.id FOR UPDATE)
UPDATE dead_letters d SET status = 'discarded', closed_at = now()
FROM locked l WHERE d.project_id = $1 AND d.id = l.id
"""
_NOW = "SELECT clock_timestamp()"


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A row of `dead_letters`. The id is the event's; `history` is JSON as PostgreSQL wrote it; times are UTC."""

    id: UUID
    event_type: str | None
    handler: str | None
    status: Status
    code: str
    field: str | None
    message: str
    attempts: int
    first_failed_at: dt.datetime
    last_failed_at: dt.datetime
    topic: str | None
    partition: int | None
    offset: int | None
    replays: int
    history: msgspec.Raw
    closed_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters of a project are wanted; None wants all. They failed at or after `since`, and before `until`."""

    status: Status | None = None
    event_type: str | None = None
    handler: str | None = None
    code: str | None = None
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @property
    def _wanted(self) -> tuple[str | None, ...]:
        return self.status, self.event_type, self.handler, self.code

    @property
    def _wants_all(self) -> bool:
        return not any(self._wanted)


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Letters, those that failed last first. With a `next_cursor` there may be more, however few this page holds."""

    items: list[StoredLetter]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """The letters of the next piece of a replay or discard; without a `next_cursor` it is the last."""

    ids: list[UUID]
    next_cursor: str | None


async def get_letter(connection: Connection, project_id: UUID, letter_id: UUID) -> StoredLetter:
    """Return one dead letter of the project.

    Raises:
        NotFound: The project has no such letter.
    """
    row = await connection.fetchrow(_BY_ID, project_id, letter_id)
    if row is None:
        raise NotFound(f"there is no dead letter {letter_id} in this project")
    return stored_letter(row)


async def list_letters(
    connection: Connection,
    project_id: UUID,
    *,
    limit: int,
    wanted: LetterFilter | None = None,
    cursor: str | None = None,
    window: int = WINDOW,
) -> LetterPage:
    """List letters, those that failed last first.

    A page looks at `window` letters at most, so its cost is bounded whatever the filter: it may hold fewer than
    `limit`, or none, and still have a `next_cursor`.

    Raises:
        Invalid: The cursor is not one of ours.
    """
    wanted = wanted or LetterFilter()
    window = limit + 1 if wanted._wants_all else max(window, limit + 1)
    time, letter_id = wanted.until or _END, _OLDEST_ID
    if cursor is not None:
        time, letter_id = read_cursor(cursor, times=1)
    rows = await connection.fetch(
        _NEWEST_FIRST, project_id, *wanted._wanted, time, letter_id, wanted.since or _BEGINNING, window, limit + 1
    )
    found = [row for row in rows if row["wanted"]]
    items = await _by_ids(connection, project_id, [row["id"] for row in found[:limit]])
    if len(found) > limit:
        return LetterPage(items, _cursor_of(found[limit - 1]))
    return LetterPage(items, _cursor_of(rows[-1]) if _looked_at(rows) == window else None)


async def _by_ids(connection: Connection, project_id: UUID, ids: list[UUID]) -> list[StoredLetter]:
    if not ids:
        return []
    found = {row["id"]: row for row in await connection.fetch(_BY_IDS, project_id, ids)}
    return [stored_letter(found[letter_id]) for letter_id in ids if letter_id in found]


def _looked_at(rows: Sequence[Any]) -> int:
    """Return how many letters were looked at to find these."""
    return int(rows[-1]["number"]) if rows else 0


def _cursor_of(row: Any) -> str:
    return write_cursor(row["id"], row["last_failed_at"])


async def count_letters(connection: Connection, project_id: UUID, wanted: LetterFilter) -> int:
    """Count the letters that a filter takes in."""
    bounds = wanted.since or _BEGINNING, wanted.until or _END
    count: int = await connection.fetchval(_COUNT, project_id, *wanted._wanted, *bounds)
    return count


async def letters_in_status(
    connection: Connection, project_id: UUID, ids: Sequence[UUID], statuses: Sequence[Status]
) -> list[UUID]:
    """Return those of these ids that are letters of the project in one of these states, sorted."""
    rows = await connection.fetch(_IN_STATUS, project_id, list(ids), list(statuses))
    return [row["id"] for row in rows]


async def next_piece(
    connection: Connection,
    project_id: UUID,
    wanted: LetterFilter,
    *,
    cursor: str | None = None,
    most: int = PIECE,
    window: int = WINDOW,
) -> Piece:
    """Return the next letters that a filter takes in, those that failed first first, looking at `window` at most.

    What fails after the first piece was looked for is left out, so that a replay of what still fails comes to an end:
    the cursor carries that time.

    Raises:
        Invalid: The cursor is not one of ours.
    """
    if cursor is not None:
        time, until, letter_id = read_cursor(cursor, times=2)
    else:
        time, until, letter_id = wanted.since or _BEGINNING, await connection.fetchval(_NOW), _OLDEST_ID
    until = min(until, wanted.until or _END)
    rows = await connection.fetch(_OLDEST_FIRST, project_id, *wanted._wanted, time, letter_id, until, window, most)
    ids = [row["id"] for row in rows if row["wanted"]]
    more = len(ids) == most or _looked_at(rows) == window
    return Piece(ids, write_cursor(rows[-1]["id"], rows[-1]["last_failed_at"], until) if more else None)


async def replay_letters(connection: Connection, project_id: UUID, ids: Sequence[UUID]) -> int:
    """Hand the events of letters over again: pending, one attempt more, due now; return how many.

    An event that is not failed any more stays as it is, and is not counted.
    """
    return await retry_events(connection, project_id, ids)


async def discard_letters(connection: Connection, project_id: UUID, ids: Sequence[UUID]) -> int:
    """Close open letters: nobody wants to see them again. Their events stay failed; return how many."""
    tag: str = await connection.execute(_DISCARD, project_id, list(ids))
    return int(tag.rpartition(" ")[2])


def stored_letter(row: Any) -> StoredLetter:
    """Build a letter from its row."""
    values = dict(row)
    return StoredLetter(**{**values, "history": msgspec.Raw(values["history"])})
