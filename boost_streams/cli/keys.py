"""``boost keys``: the API keys of a project, for when no key is at hand to ask over HTTP."""

from __future__ import annotations

from uuid import UUID

import click

from boost_streams.api_key import make_key
from boost_streams.cli.context import name_of, run_with_database, show_json, show_table
from boost_streams.cli.project_option import project_option
from db.api_keys import SCOPES, ApiKey, Revocation, create_key, list_keys, revoke_or_explain
from db.pool import Database
from db.projects import get_project_across_projects

_COLUMNS = ("id", "prefix", "name", "scopes", "created", "last used", "revoked")
_json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON.")


@click.group()
def keys() -> None:
    """Create, list and revoke the API keys of a project. DATABASE_URL says where they are."""


@keys.command()
@project_option()
@click.option("--name", required=True, callback=name_of, help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="What it may do.  [default: all]")
@click.option("--test", is_flag=True, help="A key that begins with bst_test_.")
@_json_option
def create(project_id: UUID, name: str, scopes: tuple[str, ...], test: bool, as_json: bool) -> None:
    """Create a key and show it, this once."""
    key = make_key("test" if test else "live")

    async def work(database: Database) -> ApiKey:
        await _check_project(database, project_id)
        async with database.for_project(project_id) as connection:
            return await create_key(connection, project_id, key, name, scopes=list(dict.fromkeys(scopes)) or SCOPES)

    made = run_with_database(work)
    if as_json:
        show_json({**_as_plain(made), "key": key})
        return
    click.echo(f"id       {made.id}")
    click.echo(f"API key  {key}")
    click.echo("Keep the key: it is not stored, and not shown again.", err=True)


@keys.command("list")
@project_option()
@_json_option
def list_(project_id: UUID, as_json: bool) -> None:
    """List the keys of a project, revoked ones as well."""

    async def work(database: Database) -> list[ApiKey]:
        await _check_project(database, project_id)
        async with database.for_project(project_id) as connection:
            return await list_keys(connection, project_id)

    found = run_with_database(work)
    if as_json:
        show_json([_as_plain(key) for key in found])
        return
    rows = [
        (key.id, key.prefix, key.name, " ".join(key.scopes), key.created_at, key.last_used_at, key.revoked_at)
        for key in found
    ]
    show_table(_COLUMNS, rows)


@keys.command()
@click.argument("key_id", type=click.UUID)
@project_option()
def revoke(key_id: UUID, project_id: UUID) -> None:
    """Revoke the key KEY_ID: every worker refuses it within a second."""

    async def work(database: Database) -> Revocation:
        return await revoke_or_explain(database, project_id, key_id)

    revocation = run_with_database(work)
    click.echo(f"revoked {key_id} at {revocation.revoked_at:%Y-%m-%d %H:%M:%S} UTC")


async def _check_project(database: Database, project_id: UUID) -> None:
    async with database.across_projects() as connection:
        await get_project_across_projects(connection, project_id)


def _as_plain(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": key.scopes,
        "createdAt": key.created_at,
        "lastUsedAt": key.last_used_at,
        "revokedAt": key.revoked_at,
    }
