"""``boost projects``: projects are made, listed and deleted here, not over HTTP."""

from __future__ import annotations

from uuid import UUID

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from boost_streams.api_key import make_key
from boost_streams.cli.context import name_of, run_with_database, show_json, show_table
from boost_streams.cli.project_option import ProjectNamed
from db.api_keys import create_key
from db.pool import Database
from db.projects import (
    DEFAULT_ORGANIZATION,
    Project,
    create_project_across_projects,
    delete_project_across_projects,
    get_project_across_projects,
    list_projects_across_projects,
)
from db.retention import set_retention_across_projects

_FIRST_KEY = "first key"


@click.group()
def projects() -> None:
    """Create, list and delete projects. DATABASE_URL says where they are."""


@projects.command()
@click.argument("name", callback=name_of)
@click.option(
    "--organization",
    default=DEFAULT_ORGANIZATION,
    show_default=True,
    callback=name_of,
    help="Made if it is not there.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def create(name: str, organization: str, as_json: bool) -> None:
    """Create the project NAME and its first API key, which is shown this once."""
    key = make_key()

    async def work(database: Database) -> Project:
        async with database.across_projects() as connection:
            project = await create_project_across_projects(connection, name, organization=organization)
        async with database.for_project(project.id) as connection:
            await create_key(connection, project.id, key, _FIRST_KEY)
        return project

    project = run_with_database(work)
    if as_json:
        show_json({"projectId": project.id, "apiKey": key})
        return
    click.echo(f"project  {project.id}")
    click.echo(f"API key  {key}")
    click.echo("Keep the key: it is not stored, and not shown again.", err=True)


@projects.command("list")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
def list_(as_json: bool) -> None:
    """List all projects."""

    async def work(database: Database) -> list[Project]:
        async with database.across_projects() as connection:
            return await list_projects_across_projects(connection)

    found = run_with_database(work)
    if as_json:
        show_json([_as_plain(project) for project in found])
    else:
        rows = [
            (one.id, one.organization, one.name, one.created_at, one.retention_days or "as RETENTION_DAYS says")
            for one in found
        ]
        show_table(("id", "organization", "name", "created", "keeps events (days)"), rows)


@projects.command()
@click.argument("project_id", metavar="ID", type=ProjectNamed())
@click.argument("days", metavar="DAYS", type=click.IntRange(1, 36500), required=False)
def retain(project_id: UUID, days: int | None) -> None:
    """Keep events of the project ID (or name) for DAYS days only; without DAYS, for as long as RETENTION_DAYS says.

    Workers delete what is older within the hour, once it is settled. Counters and end users stay.
    """

    async def work(database: Database) -> None:
        async with database.across_projects() as connection:
            await set_retention_across_projects(connection, project_id, days)

    run_with_database(work)
    click.echo(f"{project_id} keeps events for " + (f"{days} days" if days else "as long as RETENTION_DAYS says"))


@projects.command()
@click.argument("project_id", metavar="ID", type=click.UUID)
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(project_id: UUID, yes: bool) -> None:
    """Delete the project ID: its keys are revoked, then its events and all else is removed, for good.

    Interrupted, it may be started again and goes on where it was.
    """

    async def find(database: Database) -> Project:
        async with database.across_projects() as connection:
            return await get_project_across_projects(connection, project_id)

    if not yes:
        project = run_with_database(find)
        click.confirm(
            f"Delete the project {project.name!r} of {project.organization!r} with all its events?", abort=True
        )
    removed = run_with_database(lambda database: _delete(database, project_id))
    rows = ", ".join(f"{count:,} {table}" for table, count in removed.items() if table != "projects")
    click.echo(f"deleted {project_id}: {rows}")


async def _delete(database: Database, project_id: UUID) -> dict[str, int]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("revoking keys", total=None)

        def show(table: str, count: int) -> None:
            bar.update(task, description=f"{count:,} {table}")

        async with database.across_projects() as connection:
            return await delete_project_across_projects(connection, project_id, progress=show)


def _as_plain(project: Project) -> dict[str, object]:
    return {
        "id": project.id,
        "organization": project.organization,
        "name": project.name,
        "createdAt": project.created_at,
        "retentionDays": project.retention_days,
    }
