"""``boost migrate``: the database's schema, and the partitions that events go into."""

from __future__ import annotations

import asyncio

import click

from boost_streams.cli.context import command_settings
from boost_streams.settings import Settings


@click.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    Safe to run from many places at once, and while workers are running; a migration never keeps readers waiting.
    DATABASE_URL says where the database is.
    """
    revision = asyncio.run(_migrate(command_settings()))
    click.echo(f"the schema is at {revision}")


async def _migrate(settings: Settings) -> str:
    from db.migrate import migrate as bring_to_head
    from db.migrations import HEAD
    from db.partitions import ensure_partitions
    from db.pool import Database

    await bring_to_head(settings.database_url)
    await ensure_partitions(Database(settings.database_url))
    return HEAD
