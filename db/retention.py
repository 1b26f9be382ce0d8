"""What is deleted in pieces because it is old: events of projects with a retention of their own, and dead letters."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from boost_streams.errors import NotFound
from boost_streams.event_id import first_id_of_day
from db.pool import Connection
from db.projects import ROWS_PER_CHUNK

_SET = "UPDATE projects SET retention_days = $2 WHERE id = $1"
_WITH_THEIR_OWN = "SELECT id, retention_days FROM projects WHERE retention_days IS NOT NULL ORDER BY id"
_TODAY = "SELECT now()"
# A chunk is a range of ids, as in db/projects.py. What is not settled yet stays, however old it is.
_END_OF_CHUNK = """
SELECT id FROM (
    SELECT id FROM events WHERE project_id = $1 AND id > $2 AND id < $3 AND status <> 'pending'
    ORDER BY id LIMIT $4) AS chunk
ORDER BY id DESC LIMIT 1
"""
_DELETE_CHUNK = "DELETE FROM events WHERE project_id = $1 AND id > $2 AND id <= $3 AND status <> 'pending'"
# Letters that somebody has in hand are passed over: whoever deletes waits for nobody, and the next call takes the rest.
_PROJECTS = "SELECT id, retention_days FROM projects ORDER BY id"
_DELETE_LETTERS = """
DELETE FROM dead_letters WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM dead_letters WHERE project_id = $1 AND id < $2 AND status <> 'replaying'
    ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED))
"""
_DELETE_CLOSED_LETTERS = """
DELETE FROM dead_letters WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM dead_letters WHERE closed_at < $1 ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_DELETE_UNREADABLE = """
DELETE FROM dead_letters WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM dead_letters WHERE project_id IS NULL AND last_failed_at < $1
    ORDER BY last_failed_at, id LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_NO_ID = UUID(int=0)

#: How long a letter stays that was resolved or discarded, and one of a message that nobody could read (days): as long
#: as what is on the topic `events.dead-letter`.
CLOSED_LETTERS_DAYS = 30


async def set_retention_across_projects(connection: Connection, project_id: UUID, days: int | None) -> None:
    """Have a project's events deleted after so many days; None leaves them to the installation's RETENTION_DAYS.

    Raises:
        NotFound: There is no such project.
    """
    tag: str = await connection.execute(_SET, project_id, days)
    if tag == "UPDATE 0":
        raise NotFound(f"there is no project {project_id}")


async def delete_expired_events_across_projects(
    connection: Connection, *, now: dt.datetime | None = None, chunk: int = ROWS_PER_CHUNK
) -> dict[UUID, int]:
    """Delete what projects with a retention of their own keep no longer, on a connection outside a transaction.

    Whole UTC days go, `chunk` rows at a time; counters and end users stay. Interrupted, it goes on at the next call.

    Args:
        connection: A pipeline connection.
        now: The time to count from; the database's clock by default.
        chunk: How many rows one statement deletes.

    Returns:
        How many events were deleted, by project.
    """
    today = (now or await connection.fetchval(_TODAY)).date()
    removed: dict[UUID, int] = {}
    for row in await connection.fetch(_WITH_THEIR_OWN):
        before = first_id_of_day(today - dt.timedelta(days=row["retention_days"]))
        after = _NO_ID
        while (end := await connection.fetchval(_END_OF_CHUNK, row["id"], after, before, chunk)) is not None:
            tag: str = await connection.execute(_DELETE_CHUNK, row["id"], after, end)
            removed[row["id"]] = removed.get(row["id"], 0) + int(tag.rpartition(" ")[2])
            after = end
    return removed


async def delete_expired_letters_across_projects(
    connection: Connection, retention_days: int, *, now: dt.datetime | None = None, chunk: int = ROWS_PER_CHUNK
) -> int:
    """Delete the dead letters whose events are kept no longer, and those that were closed long ago; return how many.

    A letter leaves with its event; one that is being replayed stays, as its event does. On a connection outside a
    transaction, `chunk` rows at a time.

    Args:
        connection: A pipeline connection.
        retention_days: The installation's retention; 0 keeps everything.
        now: The time to count from; the database's clock by default.
        chunk: How many rows one statement deletes.
    """
    now = now or await connection.fetchval(_TODAY)
    removed = 0
    for row in await connection.fetch(_PROJECTS):
        days = min((kept for kept in (row["retention_days"], retention_days) if kept), default=None)
        if days is not None:
            before = first_id_of_day(now.date() - dt.timedelta(days=days))
            removed += await _delete_chunked(connection, _DELETE_LETTERS, row["id"], before, chunk)
    closed_before = now - dt.timedelta(days=CLOSED_LETTERS_DAYS)
    for statement in (_DELETE_CLOSED_LETTERS, _DELETE_UNREADABLE):
        removed += await _delete_chunked(connection, statement, closed_before, chunk)
    return removed


async def _delete_chunked(connection: Connection, statement: str, *arguments: object) -> int:
    removed = 0
    while True:
        tag: str = await connection.execute(statement, *arguments)
        count = int(tag.rpartition(" ")[2])
        if count == 0:
            return removed
        removed += count
