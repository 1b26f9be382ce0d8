"""A project's events: one by its id, many newest first, and a failed one handed over again.

Every statement runs in a tenant transaction (`Database.for_project`) and names the project as well.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import msgspec

from boost_streams.errors import Conflict, Invalid, NotFound
from boost_streams.event_id import first_id_of_day
from db.pool import Connection
from db.retention import CLOSED_LETTERS_DAYS

Status = Literal["pending", "processed", "failed"]

#: How many events one page looks at, whatever the filters leave of them.
WINDOW = 2_000

_CURSOR_VERSION = b"\x01"
_NEWEST = UUID(int=(1 << 128) - 1)
_OLDEST = UUID(int=0)
_DAY_MS = 86_400_000
#: How far back (days) each look goes, so that a page of recent events opens few partitions; then everything.
_DAYS_BACK = (2, 16, 128)
#: How far back (days) every event that failed has a dead letter: none leaves sooner than that after its event came. The
#: week between is for workers whose clocks, from which ids are made, are ahead.
LETTERS_DAYS = CLOSED_LETTERS_DAYS - 7

_COLUMNS = (
    "e.id, e.event_type, e.status, e.attempt, e.user_id, e.anonymous_id, e.session_id, e.message_id, "
    "e.payload, e.occurred_at, e.original_timestamp, e.received_at, e.settled_at, e.error"
)
_BY_ID = f"SELECT {_COLUMNS} FROM events e WHERE e.project_id = $1 AND e.id = $2"  # noqa: S608 - column names


def _looking(table: str, wanted: str) -> str:
    """Return a statement that looks at rows newest first until $7 are found, or $6 were looked at, or the span ends.

    It gives back what is wanted and the last one looked at, not a row for each of 2,000: those took a worker half a
    millisecond a page, and where the heap is not frozen as a worker's is, the collector came every sixty pages for
    40 ms. PostgreSQL looks at one in 2.5 µs.
    """
    return f"""
SELECT looked.id, looked.wanted, looked.number
FROM (
    SELECT r.id, {wanted} AND ($5::text IS NULL OR r.event_type = $5) AS wanted,
        row_number() OVER newest_first AS number, lead(r.id) OVER newest_first IS NULL AS is_last
    FROM (
        SELECT r.id, r.status, r.event_type FROM {table} r WHERE r.project_id = $1 AND r.id >= $2 AND r.id < $3
        ORDER BY r.id DESC LIMIT $6
    ) r WINDOW newest_first AS (ORDER BY r.id DESC)
) looked
WHERE looked.wanted OR looked.is_last ORDER BY looked.id DESC LIMIT $7
"""  # noqa: S608 - only names and conditions of our own are put in


_SCAN = _looking("events", "($4::text IS NULL OR r.status = $4)")
# An event fails and has its letter in one transaction (docs/adr/0034).
_SCAN_LETTERS = _looking("dead_letters", "r.status IN ('open', 'discarded') AND $4::text = 'failed'")
# The bounds $3 and $4 prune partitions. The status is asked again: it may have moved on since the scan.
_BY_IDS = f"""
SELECT {_COLUMNS} FROM events e
WHERE e.project_id = $1 AND e.id = ANY($2::uuid[]) AND e.id BETWEEN $3 AND $4
    AND ($5::text IS NULL OR e.status = $5)
ORDER BY e.id DESC
"""  # noqa: S608 - only column names are put in
#: How many earlier failures a dead letter remembers; before them, the oldest are forgotten.
MOST_HISTORY = 20
# Its dead letter goes with it. The event's row is locked first, so whoever else writes the letter has waited before.
_RETRY = f"""
WITH again AS (
    UPDATE events e SET status = 'pending', attempt = e.attempt + 1, settled_at = NULL, error = NULL
    WHERE e.project_id = $1 AND e.id = $2 AND e.status = 'failed'
    RETURNING e.project_id, e.id, e.attempt
), letter AS (
    UPDATE dead_letters d SET status = 'replaying', closed_at = NULL, replays = d.replays + 1,
        history = CASE WHEN jsonb_array_length(d.history) < {MOST_HISTORY} THEN d.history ELSE d.history - 0 END
            || jsonb_build_object('failedAt', to_char(d.last_failed_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                'code', d.code, 'field', d.field, 'message', d.message, 'attempts', d.attempts,
                'replayedAt', to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
    WHERE d.project_id = $1 AND d.id = $2 AND EXISTS (SELECT 1 FROM again)
)
INSERT INTO event_retries (project_id, event_id, attempt, asked_attempt, was_failed, reason, due_at)
SELECT a.project_id, a.id, a.attempt, a.attempt, true, 'asked for', now() FROM again a
RETURNING attempt
"""  # noqa: S608 - only a number is put in
_STATUS = "SELECT e.status FROM events e WHERE e.project_id = $1 AND e.id = $2"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of `events`. `payload` and `error` are JSON as PostgreSQL wrote it; times are UTC."""

    id: UUID
    event_type: str
    status: Status
    attempt: int
    user_id: str | None
    anonymous_id: str | None
    session_id: str | None
    message_id: str | None
    payload: msgspec.Raw
    occurred_at: dt.datetime
    original_timestamp: dt.datetime | None
    received_at: dt.datetime
    settled_at: dt.datetime | None
    error: msgspec.Raw | None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events of a project are wanted; None wants all."""

    status: Status | None = None
    event_type: str | None = None

    @property
    def wants_all(self) -> bool:
        """Tell whether nothing is filtered out."""
        return self.status is None and self.event_type is None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events newest first. With a `next_cursor` there may be more, however few this page holds."""

    items: list[StoredEvent]
    next_cursor: str | None


def cursor_after(event_id: UUID) -> str:
    """Write the cursor of the page that follows an event."""
    return base64.urlsafe_b64encode(_CURSOR_VERSION + event_id.bytes).decode().rstrip("=")


def read_cursor(cursor: str) -> UUID:
    """Return the id below which the next page begins.

    Raises:
        Invalid: It is not a cursor of ours; names the field `cursor`.
    """
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != 17 or data[:1] != _CURSOR_VERSION:
        raise Invalid.field("cursor", "must be the nextCursor of an earlier page, unchanged")
    return UUID(bytes=data[1:])


async def get_event(connection: Connection, project_id: UUID, event_id: UUID) -> StoredEvent:
    """Return one event of the project.

    Raises:
        NotFound: The project has no such event.
    """
    row = await connection.fetchrow(_BY_ID, project_id, event_id)
    if row is None:
        raise _no_such_event(event_id)
    return _stored_event(row)


async def list_events(
    connection: Connection,
    project_id: UUID,
    *,
    limit: int,
    now: dt.datetime,
    wanted: EventFilter | None = None,
    cursor: str | None = None,
    window: int = WINDOW,
) -> EventPage:
    """List events newest first.

    A page looks at `window` events at most, in the order of the primary key and no further than to the first
    that it has no place for. So its cost is bounded whatever the filter: it may hold fewer than `limit`, or
    none, and still have a `next_cursor`. For those that failed it looks at dead letters, of which nearly all are
    wanted, as far back as there is one for each (`LETTERS_DAYS`).

    Args:
        connection: A connection of `Database.for_project`.
        project_id: Whose events.
        limit: The most events that the page may hold.
        now: The time, from which the looks go back in days.
        wanted: Which events; all by default.
        cursor: The `next_cursor` of the page before.
        window: The most events that are looked at.

    Raises:
        Invalid: The cursor is not one of ours.
    """
    wanted = wanted or EventFilter()
    window = limit + 1 if wanted.wants_all else max(window, limit + 1)
    before = read_cursor(cursor) if cursor is not None else _NEWEST
    scanned = 0
    found: list[UUID] = []
    last = before
    for statement, low, high in _looks(wanted.status, before, now):
        at_most = window - scanned, limit + 1 - len(found)
        rows = await connection.fetch(statement, project_id, low, high, wanted.status, wanted.event_type, *at_most)
        found += [row["id"] for row in rows if row["wanted"]]
        if rows:
            last, scanned = rows[-1]["id"], scanned + rows[-1]["number"]
        if scanned == window or len(found) > limit:
            break
    ids = found[:limit]
    items = await _by_ids(connection, project_id, ids, wanted.status)
    if len(found) > limit:
        return EventPage(items, cursor_after(ids[-1]))
    return EventPage(items, cursor_after(last) if scanned == window else None)


def _looks(status: Status | None, before: UUID, now: dt.datetime) -> Iterator[tuple[str, UUID, UUID]]:
    """Say where to look below `before`: a statement and a span of ids, newest first."""
    if status == "failed":
        oldest_letter = first_id_of_day(now.date() - dt.timedelta(days=LETTERS_DAYS))
        if oldest_letter < before:
            yield _SCAN_LETTERS, oldest_letter, before
            before = oldest_letter
    for low, high in _spans(before, now):
        yield _SCAN, low, high


def _spans(before: UUID, now: dt.datetime) -> Iterator[tuple[UUID, UUID]]:
    """Cut the ids below `before` into spans, newest first, that reach further back each time."""
    newest_day = min((before.int >> 80) // _DAY_MS, int(now.timestamp()) // 86_400)
    high = before
    for days in _DAYS_BACK:
        low = UUID(int=max(newest_day + 1 - days, 0) * _DAY_MS << 80)
        if low < high:
            yield low, high
            high = low
    yield _OLDEST, high


async def _by_ids(
    connection: Connection, project_id: UUID, ids: list[UUID], status: Status | None
) -> list[StoredEvent]:
    if not ids:
        return []
    return [_stored_event(row) for row in await connection.fetch(_BY_IDS, project_id, ids, min(ids), max(ids), status)]


async def retry_event(connection: Connection, project_id: UUID, event_id: UUID) -> int:
    """Hand a failed event over again: pending, one attempt more, its row in `event_retries` due now.

    Its dead letter, if it has one, is being replayed from then on.

    Returns:
        The new attempt.

    Raises:
        NotFound: The project has no such event.
        Conflict: The event is pending or processed.
    """
    attempt: int | None = await connection.fetchval(_RETRY, project_id, event_id)
    if attempt is not None:
        return attempt
    status: str | None = await connection.fetchval(_STATUS, project_id, event_id)
    if status is None:
        raise _no_such_event(event_id)
    raise Conflict(f"event {event_id} is {status}; only a failed event can be tried again")


async def retry_events(connection: Connection, project_id: UUID, event_ids: Sequence[UUID]) -> int:
    """Hand those of these events that failed over again, in the order of their ids; return how many.

    Each by its key: no plan can go wrong, however many days they are spread over.
    """
    keys = [(project_id, event_id) for event_id in sorted(set(event_ids))]
    return len(await connection.fetchmany(_RETRY, keys)) if keys else 0


def _no_such_event(event_id: UUID) -> NotFound:
    return NotFound(f"there is no event {event_id} in this project")


def _stored_event(row: Any) -> StoredEvent:
    values = dict(row)
    error = values.pop("error")
    return StoredEvent(
        **{**values, "payload": msgspec.Raw(values["payload"])}, error=msgspec.Raw(error) if error else None
    )
