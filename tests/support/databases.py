"""Databases for tests: one migrated template, cloned for each test."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from db.migrate import migrate
from db.partitions import ensure_partitions
from db.pool import Database


def url_of_database(server_url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


@contextlib.contextmanager
def fresh_database(server_url: str, *, template: str = "template1") -> Iterator[str]:
    """Make a database as a copy of `template`, lend its URL, and drop it whoever is still connected."""
    name = f"boost_test_{uuid.uuid4().hex[:16]}"
    identifiers = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**identifiers))
    try:
        yield url_of_database(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**identifiers))


@contextlib.contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """Make a database with the newest schema and this week's partitions; lend its name."""
    with fresh_database(server_url) as url:
        asyncio.run(_migrate(url))
        yield urlsplit(url).path.removeprefix("/")


async def _migrate(url: str) -> None:
    await migrate(url)
    database = Database(url, pipeline_connections=1, tenant_connections=1)
    await database.open()
    try:
        await ensure_partitions(database)
    finally:
        await database.close()
