"""Projects with a key, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from boost_streams.api_key import make_key
from db.api_keys import SCOPES, create_key
from db.pool import Database
from db.projects import create_project_across_projects


@dataclass(frozen=True, slots=True)
class TestProject:
    """A project, and a key of it with the id under which it is stored."""

    __test__ = False

    id: UUID
    name: str
    key: str
    key_id: UUID

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request."""
        return {"x-api-key": self.key}


async def make_project(
    database: Database, name: str = "shop", *, organization: str = "default", scopes: Sequence[str] = SCOPES
) -> TestProject:
    """Make a project and a key of it."""
    async with database.across_projects() as connection:
        project = await create_project_across_projects(connection, name, organization=organization)
    key = make_key("test")
    async with database.for_project(project.id) as connection:
        stored = await create_key(connection, project.id, key, "test", scopes=scopes)
    return TestProject(project.id, name, key, stored.id)
