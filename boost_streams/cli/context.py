"""What commands share: the settings, an open database, and the way from a plain function into asyncio."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

import asyncpg
import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from boost_streams.errors import BoostError, Unavailable
from boost_streams.logs import configure_logging
from boost_streams.settings import Settings, load_settings
from db.migrate import schema_fits, schema_revision
from db.migrations import HEAD
from db.pool import Database

T = TypeVar("T")
Command = Callable[..., Any]

_CONNECT_SECONDS = 5.0
_LONGEST_NAME = 200
#: Wider than any row: an id that is broken over two lines cannot be copied.
_WIDEST = 10_000


def command_settings() -> Settings:
    """Read the settings and send what is logged to stderr: warnings, where LOG_LEVEL does not ask for other lines.

    A command says by itself what it does.

    Raises:
        ConfigurationError: They are wrong.
    """
    settings = load_settings()
    configure_logging(settings)
    if "log_level" not in settings.model_fields_set:
        logging.getLogger().setLevel(logging.WARNING)
    return settings


def run_with_database(work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with the database that the settings name, open, and close it.

    Raises:
        ConfigurationError: The settings are wrong.
        Unavailable: PostgreSQL does not answer, or refuses us.
        BoostError: The database has not got our schema; or as `work` raises.
    """
    return asyncio.run(_with_database(command_settings().database_url, work))


async def _with_database(database_url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    await _check_schema(database_url)
    database = Database(database_url, pipeline_connections=2, tenant_connections=2)
    try:
        await database.open()
        return await work(database)
    finally:
        await database.close()


async def _check_schema(database_url: str) -> None:
    try:
        connection = await asyncpg.connect(database_url, timeout=_CONNECT_SECONDS)
        try:
            revision = await schema_revision(connection)
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"PostgreSQL cannot be used: {error}. DATABASE_URL says where it is.") from error
    if not schema_fits(revision):
        found = f"has schema {revision}" if revision else "has no schema yet"
        raise BoostError(f"the database {found}, this version needs {HEAD}: run boost migrate")


def name_of(_: click.Context, parameter: click.Parameter, value: str) -> str:
    """Check a name given on the command line: 1 to 200 printable characters.

    Raises:
        click.BadParameter: It is not one.
    """
    name = value.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise click.BadParameter(f"give 1 to {_LONGEST_NAME} printable characters", param=parameter)
    return name


def day_option(flag: str, name: str, help_text: str) -> Callable[[Command], Command]:
    """Give a command an option that takes a UTC day; it gets that day's first moment as `name`, or None."""
    return click.option(flag, name, type=click.DateTime(["%Y-%m-%d"]), callback=_in_utc, help=help_text)


def _in_utc(_: click.Context, __: click.Parameter, value: dt.datetime | None) -> dt.datetime | None:
    return None if value is None else value.replace(tzinfo=dt.UTC)


def show_table(columns: Iterable[str], rows: Iterable[Iterable[object]], right: Collection[str] = ()) -> None:
    """Print a table on stdout, a line for each row; nothing in it is read as markup, nothing is cut off.

    Args:
        columns: The headings.
        rows: What stands below; a `Text` keeps its style.
        right: The headings of columns that are aligned to the right.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*(_shown(value) for value in row))
    Console(highlight=False, markup=False, width=_WIDEST).print(table)


def show_fields(fields: Mapping[str, object]) -> None:
    """Print names and values on stdout, one below the other, values as they are; None is left out."""
    shown = {name: str(value) for name, value in fields.items() if value is not None}
    width = max(map(len, shown), default=0) + 2
    console = Console(soft_wrap=True)
    for name, value in shown.items():
        lines = f"\n{'':{width}}".join(value.split("\n"))
        console.print(Text.assemble((f"{name:<{width}}", "bold"), lines))


def show_json(value: object) -> None:
    """Print one line of JSON on stdout."""
    click.echo(msgspec.json.encode(value).decode())


def _shown(value: object) -> str | Text:
    if isinstance(value, Text):
        return value
    if value is None:
        return "-"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, dt.datetime) else str(value)
