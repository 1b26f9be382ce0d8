"""Which project a command is about: its id, or its name where no other project has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import click

from boost_streams.cli.context import Command, run_with_database
from boost_streams.errors import Conflict, NotFound
from db.pool import Database
from db.projects import find_projects_by_name_across_projects


class ProjectNamed(click.ParamType):
    """Turns what was given into the project's id; a name is looked up in the database.

    Raises:
        NotFound: No project has this name.
        Conflict: Several have; it lists their ids.
        BoostError: As `run_with_database`.
    """

    name = "id or name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        """Return the id that was given, or that of the project of this name."""
        if isinstance(value, UUID):
            return value
        try:
            return UUID(value.strip())
        except ValueError:
            return run_with_database(lambda database: _id_of(database, value.strip()))


def project_option(
    *, required: bool = True, help_text: str = "The project's id or name."
) -> Callable[[Command], Command]:
    """Give a command the option `--project`; it gets the id as `project_id`."""
    return click.option("--project", "project_id", type=ProjectNamed(), required=required, help=help_text)


async def _id_of(database: Database, name: str) -> UUID:
    async with database.across_projects() as connection:
        found = await find_projects_by_name_across_projects(connection, name)
    if not found:
        raise NotFound(f"there is no project with the id or name {name!r}; boost projects list shows all")
    if len(found) > 1:
        ids = ", ".join(f"{one.id} (organization {one.organization})" for one in found)
        raise Conflict(f"{len(found)} projects are named {name!r}, give the id of one: {ids}")
    return found[0].id
