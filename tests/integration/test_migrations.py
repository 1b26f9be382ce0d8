"""Migrations: applied ones stay as they are, many migrators at once do no harm, and no reader makes one hang."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import json
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

import db.migrate
from boost_streams.errors import MayNotMigrate, Unavailable
from db.migrate import migrate, schema_revision
from db.migrations import HEAD, sql_file
from db.partitions import ensure_partitions
from db.pool import Database
from tests.support.databases import fresh_database
from tests.support.servers import running_postgres

MIGRATIONS = Path(sql_file.__file__).parent
HASHES = Path(__file__).with_name("migration_hashes.json")


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def has_schema(url: str) -> bool:
    async with connected(url) as connection:
        if await schema_revision(connection) != HEAD:
            return False
        return await connection.fetchval("SELECT to_regclass('events') IS NOT NULL") is True


def test_applied_migrations_have_not_changed() -> None:
    """A file that this finds changed was applied somewhere already: write a new migration instead.

    A new migration's hashes are added to `migration_hashes.json` when it is released.
    """
    files = [*(MIGRATIONS / "sql").glob("*.sql"), *(MIGRATIONS / "versions").glob("v[0-9]*.py")]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert hashes == json.loads(HASHES.read_text())


def test_the_head_is_the_newest_migration_of_one_line() -> None:
    modules = [
        importlib.import_module(f"db.migrations.versions.{path.stem}")
        for path in sorted((MIGRATIONS / "versions").glob("v[0-9]*.py"))
    ]
    assert [module.down_revision for module in modules] == [None, *(module.revision for module in modules[:-1])]
    assert modules[-1].revision == HEAD


async def test_four_migrators_at_once_on_an_empty_database(empty_database_url: str) -> None:
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    assert await has_schema(empty_database_url)


async def test_two_databases_at_once(postgres_url: str) -> None:
    with fresh_database(postgres_url) as one, fresh_database(postgres_url) as other:
        await asyncio.gather(migrate(one), migrate(other))
        assert await has_schema(one)
        assert await has_schema(other)


async def test_a_second_migration_is_a_quick_look(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_again(_: str) -> None:
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr(db.migrate, "_upgrade", not_again)
    await migrate(database_url)


async def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("UPDATE boost_schema_version SET version_num = '9999'")
        await migrate(database_url)
        assert await schema_revision(connection) == "9999"


async def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(Unavailable):
        await migrate("postgresql://postgres@127.0.0.1:1/none")


@pytest.fixture
def migration_of_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first migration change a table that stands already, as later ones will."""
    name = "0001_first_tables.sql"
    first = (MIGRATIONS / "sql" / name).read_text()
    shutil.copytree(MIGRATIONS / "sql", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(first + "\nALTER TABLE held ADD COLUMN more integer;\n")
    monkeypatch.setattr(sql_file, "_FOLDER", tmp_path)


@contextlib.asynccontextmanager
async def reader(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Hold what a long query holds on a table."""
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS held (id integer)")
        async with connection.transaction():
            await connection.fetch("SELECT * FROM held")
            yield connection


@pytest.mark.usefixtures("migration_of_held")
async def test_a_migration_gives_way_to_a_reader_and_goes_on_after_it(empty_database_url: str) -> None:
    async with reader(empty_database_url), connected(empty_database_url) as other:
        migration = asyncio.create_task(migrate(empty_database_url))
        # The migration's lock request must not keep other readers waiting for longer than its time-out.
        worst = 0.0
        for _ in range(10):
            started = time.monotonic()
            await other.fetch("SELECT * FROM held", timeout=5)
            worst = max(worst, time.monotonic() - started)
            await asyncio.sleep(0.05)
        assert worst < 2
        assert not migration.done()
    await asyncio.wait_for(migration, 30)
    assert await has_schema(empty_database_url)


@pytest.mark.usefixtures("migration_of_held")
async def test_a_reader_that_never_ends_ends_the_migration(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db.migrate, "_ATTEMPTS", 3)
    async with reader(empty_database_url):
        with pytest.raises(Unavailable, match="could not be changed"):
            await asyncio.wait_for(migrate(empty_database_url), 30)
    assert not await has_schema(empty_database_url)
    await migrate(empty_database_url)
    assert await has_schema(empty_database_url)


async def test_a_role_that_is_no_superuser_can_migrate() -> None:
    """On a server of its own: roles belong to a whole server, and this one makes them."""
    with running_postgres() as server:
        async with connected(server.url()) as connection:
            await connection.execute("CREATE ROLE app LOGIN CREATEROLE")
            await connection.execute("CREATE DATABASE app OWNER app")
        url = server.url("app").replace("//postgres@", "//app@")
        assert urlsplit(url).username == "app"
        await migrate(url)
        database = Database(url)
        await database.open()
        try:
            assert await ensure_partitions(database)
            async with database.for_project(uuid.uuid4()) as tenant:
                assert await tenant.fetchval("SELECT current_user") == "boost_tenant"
                assert await tenant.fetch("SELECT id FROM events") == []
        finally:
            await database.close()


async def test_a_login_without_rights_to_the_roles_is_told_what_to_grant() -> None:
    with running_postgres() as server:
        await migrate(server.url())
        async with connected(server.url()) as connection:
            await connection.execute("CREATE ROLE other LOGIN CREATEROLE")
            await connection.execute("CREATE DATABASE other OWNER other")
        with pytest.raises(MayNotMigrate, match="GRANT boost_owner, boost_pipeline, boost_tenant TO"):
            await migrate(server.url("other").replace("//postgres@", "//other@"))


async def test_a_database_that_was_never_migrated_says_what_to_do(empty_database_url: str) -> None:
    """The roles may be there already, made for another database of the server: then the tables are missing."""
    database = Database(empty_database_url.replace("postgres@", "nobody_of_that_name@"))
    with pytest.raises(Unavailable, match="boost migrate"):
        await database.open()
