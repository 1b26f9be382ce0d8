"""Organizations and their projects: made, found, listed, and deleted a piece at a time."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import tenacity
import uuid_utils.compat

from boost_streams.errors import Conflict, NotFound
from db.api_keys import revoke_all_across_projects
from db.pool import Connection

#: The organization of a project for which none is named.
DEFAULT_ORGANIZATION = "default"
#: How many rows one statement of a deletion removes: its locks are held for some 50 ms.
ROWS_PER_CHUNK = 5_000

_ORGANIZATIONS_LOCK = 0x6F7267  # "org"
_LOCK_ORGANIZATIONS = "SELECT pg_advisory_xact_lock($1)"
_FIND_ORGANIZATION = "SELECT id FROM organizations WHERE name = $1 ORDER BY created_at, id LIMIT 1"
_MAKE_ORGANIZATION = "INSERT INTO organizations (id, name) VALUES ($1, $2)"
_DELETE_ORGANIZATION = "DELETE FROM organizations WHERE id = $1"

_COLUMNS = "p.id, p.name, p.organization_id, o.name AS organization, p.created_at, p.retention_days"
_MAKE_PROJECT = f"""
WITH p AS (
    INSERT INTO projects (id, organization_id, name) VALUES ($1, $2, $3)
    ON CONFLICT (organization_id, name) DO NOTHING RETURNING *)
SELECT {_COLUMNS} FROM p JOIN organizations o ON o.id = p.organization_id
"""  # noqa: S608 - only column names are put in
_FROM_PROJECTS = f"SELECT {_COLUMNS} FROM projects p JOIN organizations o ON o.id = p.organization_id"  # noqa: S608
_GET_PROJECT = f"{_FROM_PROJECTS} WHERE p.id = $1"
_FIND_PROJECT = f"{_FROM_PROJECTS} WHERE o.name = $1 AND p.name = $2 ORDER BY o.created_at, o.id LIMIT 1"
_FIND_BY_NAME = f"{_FROM_PROJECTS} WHERE p.name = $1 ORDER BY o.name, p.id"
_LIST_PROJECTS = f"{_FROM_PROJECTS} ORDER BY o.name, p.name, p.id"
_PROJECTS_OF_ORGANIZATION = "SELECT id FROM projects WHERE organization_id = $1 ORDER BY id"

# A chunk is a range of ids: one index range per partition, and no join that a plan could turn into a scan.
_END_OF_EVENTS_CHUNK = """
SELECT id FROM (
    SELECT id FROM events WHERE project_id = $1 AND id > $2 ORDER BY id LIMIT $3) AS chunk
ORDER BY id DESC LIMIT 1
"""
_DELETE_EVENTS_CHUNK = "DELETE FROM events WHERE project_id = $1 AND id > $2 AND id <= $3"
_DELETE_RETRIES = """
WITH doomed AS (
    SELECT event_id FROM event_retries WHERE project_id = $1 ORDER BY event_id LIMIT $2 FOR UPDATE)
DELETE FROM event_retries r USING doomed d WHERE r.project_id = $1 AND r.event_id = d.event_id
"""
_DELETE_LETTERS = """
WITH doomed AS (SELECT id FROM dead_letters WHERE project_id = $1 ORDER BY id LIMIT $2 FOR UPDATE)
DELETE FROM dead_letters d USING doomed o WHERE d.project_id = $1 AND d.id = o.id
"""
_DELETE_END_USERS = """
WITH doomed AS (SELECT id FROM end_users WHERE project_id = $1 ORDER BY id LIMIT $2 FOR UPDATE)
DELETE FROM end_users u USING doomed d WHERE u.project_id = $1 AND u.id = d.id
"""
_DELETE_ROLLUPS = """
WITH doomed AS (
    SELECT metric, bucket_start, key FROM rollups WHERE project_id = $1
    ORDER BY metric, bucket_start, key LIMIT $2 FOR UPDATE)
DELETE FROM rollups r USING doomed d
WHERE r.project_id = $1 AND r.metric = d.metric AND r.bucket_start = d.bucket_start AND r.key = d.key
"""
_DELETE_PROJECT = "DELETE FROM projects WHERE id = $1"

#: In the order in which a settlement takes its locks.
_CHUNKED = (
    ("event_retries", _DELETE_RETRIES),
    ("dead_letters", _DELETE_LETTERS),
    ("end_users", _DELETE_END_USERS),
    ("rollups", _DELETE_ROLLUPS),
)
_NO_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Project:
    """A project and the organization it belongs to."""

    id: UUID
    name: str
    organization_id: UUID
    organization: str
    created_at: dt.datetime
    #: Days after which its events are deleted; None leaves them to RETENTION_DAYS.
    retention_days: int | None = None


#: Told after every chunk of a deletion: the table, and how many rows have left it so far.
Progress = Callable[[str, int], None]


async def ensure_organization_across_projects(
    connection: Connection, name: str, *, new_id: Callable[[], UUID] = uuid_utils.compat.uuid7
) -> UUID:
    """Return the id of the organization of this name, made if there is none."""
    async with connection.transaction():
        await connection.execute(_LOCK_ORGANIZATIONS, _ORGANIZATIONS_LOCK)
        found: UUID | None = await connection.fetchval(_FIND_ORGANIZATION, name)
        if found is not None:
            return found
        made = new_id()
        await connection.execute(_MAKE_ORGANIZATION, made, name)
        return made


async def create_project_across_projects(
    connection: Connection,
    name: str,
    *,
    organization: str = DEFAULT_ORGANIZATION,
    new_id: Callable[[], UUID] = uuid_utils.compat.uuid7,
) -> Project:
    """Make a project in an organization, which is made as well when it is the first of its name.

    Raises:
        Conflict: The organization has a project of this name.
    """
    async with connection.transaction():
        organization_id = await ensure_organization_across_projects(connection, organization, new_id=new_id)
        row = await connection.fetchrow(_MAKE_PROJECT, new_id(), organization_id, name)
    if row is None:
        raise Conflict(f"there is a project named {name!r} in the organization {organization!r} already")
    return Project(**dict(row))


async def get_project_across_projects(connection: Connection, project_id: UUID) -> Project:
    """Return a project.

    Raises:
        NotFound: There is none with this id.
    """
    row = await connection.fetchrow(_GET_PROJECT, project_id)
    if row is None:
        raise NotFound(f"there is no project {project_id}")
    return Project(**dict(row))


async def find_project_across_projects(
    connection: Connection, name: str, *, organization: str = DEFAULT_ORGANIZATION
) -> Project | None:
    """Return the project of this name in an organization, or None."""
    row = await connection.fetchrow(_FIND_PROJECT, organization, name)
    return Project(**dict(row)) if row else None


async def find_projects_by_name_across_projects(connection: Connection, name: str) -> list[Project]:
    """List the projects of this name, one per organization that has it."""
    return [Project(**dict(row)) for row in await connection.fetch(_FIND_BY_NAME, name)]


async def list_projects_across_projects(connection: Connection) -> list[Project]:
    """List every project, by organization and name."""
    return [Project(**dict(row)) for row in await connection.fetch(_LIST_PROJECTS)]


async def delete_project_across_projects(
    connection: Connection, project_id: UUID, *, progress: Progress | None = None, chunk: int = ROWS_PER_CHUNK
) -> dict[str, int]:
    """Delete a project and all it owns, `chunk` rows at a time, on a connection outside a transaction.

    Its keys are revoked first, so that nothing new comes in. A deletion that was interrupted is taken up by
    calling again; what still slipped in goes with the project's row, by cascade.

    Returns:
        How many rows were removed, by table.

    Raises:
        NotFound: There is no project with this id.
    """
    await get_project_across_projects(connection, project_id)
    await revoke_all_across_projects(connection, project_id)
    removed = {"events": await _delete_events(connection, project_id, progress, chunk)}
    for table, statement in _CHUNKED:
        removed[table] = await _delete_chunked(connection, (table, statement), project_id, progress, chunk)
    removed["projects"] = await _remove(connection, _DELETE_PROJECT, project_id)
    if progress:
        progress("projects", removed["projects"])
    return removed


async def delete_organization_across_projects(
    connection: Connection,
    organization_id: UUID,
    *,
    progress: Progress | None = None,
    chunk: int = ROWS_PER_CHUNK,
) -> None:
    """Delete an organization, its projects first and each in pieces.

    Raises:
        NotFound: There is no organization with this id.
    """
    for row in await connection.fetch(_PROJECTS_OF_ORGANIZATION, organization_id):
        await delete_project_across_projects(connection, row["id"], progress=progress, chunk=chunk)
    if await _remove(connection, _DELETE_ORGANIZATION, organization_id) == 0:
        raise NotFound(f"there is no organization {organization_id}")


async def _delete_events(connection: Connection, project_id: UUID, progress: Progress | None, chunk: int) -> int:
    removed, after = 0, _NO_ID
    while (end := await connection.fetchval(_END_OF_EVENTS_CHUNK, project_id, after, chunk)) is not None:
        removed += await _remove(connection, _DELETE_EVENTS_CHUNK, project_id, after, end)
        after = end
        if progress:
            progress("events", removed)
    return removed


async def _delete_chunked(
    connection: Connection, what: tuple[str, str], project_id: UUID, progress: Progress | None, chunk: int
) -> int:
    table, statement = what
    removed = 0
    while count := await _remove(connection, statement, project_id, chunk):
        removed += count
        if progress:
            progress(table, removed)
    return removed


# A settlement under way may hold what a chunk wants; then nothing of the chunk is done.
@tenacity.retry(
    retry=tenacity.retry_if_exception_type(asyncpg.DeadlockDetectedError),
    stop=tenacity.stop_after_attempt(20),
    wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
    reraise=True,
)
async def _remove(connection: Connection, statement: str, *arguments: object) -> int:
    tag: str = await connection.execute(statement, *arguments)
    return int(tag.rpartition(" ")[2])
