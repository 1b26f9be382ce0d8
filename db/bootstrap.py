"""What `boost dev` puts into a migrated database: the demo project and a key that works."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from boost_streams.api_key import hash_key, is_well_formed, make_key
from boost_streams.errors import Conflict
from db.api_keys import SCOPES, create_key, find_by_hash_across_projects
from db.batches import release_everything_across_projects
from db.pool import Connection, Database
from db.projects import Project, create_project_across_projects, find_project_across_projects

DEMO_PROJECT = "demo"
_KEY_NAME = "boost dev"


@dataclass(frozen=True, slots=True)
class DemoProject:
    """The demo project and a key of it with every scope."""

    project_id: str
    api_key: str


async def ensure_demo_project(database_url: str, key: str | None) -> DemoProject:
    """Return the demo project, made if need be, and `key` if it is still good for it, else a new key.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    database = Database(database_url, pipeline_connections=1, tenant_connections=1)
    try:
        await database.open()
        async with database.across_projects() as connection:
            project = await _demo_project(connection)
            if key and await _is_good(connection, key, project.id):
                return DemoProject(str(project.id), key)
        fresh = make_key("test")
        async with database.for_project(project.id) as connection:
            await create_key(connection, project.id, fresh, _KEY_NAME)
        return DemoProject(str(project.id), fresh)
    finally:
        await database.close()


async def release_unsettled(database_url: str) -> int:
    """Say that the broker forgot everything; returns how many batches will be published again."""
    database = Database(database_url, pipeline_connections=1, tenant_connections=1)
    try:
        await database.open()
        async with database.across_projects() as connection:
            return await release_everything_across_projects(connection)
    finally:
        await database.close()


async def _demo_project(connection: Connection) -> Project:
    found = await find_project_across_projects(connection, DEMO_PROJECT)
    if found is None:
        try:
            return await create_project_across_projects(connection, DEMO_PROJECT)
        except Conflict:  # made by another at this moment
            found = await find_project_across_projects(connection, DEMO_PROJECT)
            assert found is not None
    return found


async def _is_good(connection: Connection, key: str, project_id: UUID) -> bool:
    if not is_well_formed(key):
        return False
    found = await find_by_hash_across_projects(connection, hash_key(key))
    return found is not None and found.project_id == project_id and set(SCOPES) <= set(found.scopes)
