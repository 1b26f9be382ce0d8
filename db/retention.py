"""Projects that keep their events for a shorter time than the installation: older events are deleted in pieces."""

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
_NO_ID = UUID(int=0)


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
