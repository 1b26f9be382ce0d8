"""Brings a database to the newest schema. Safe from many workers at once; never waits long on a reader.

One migrator works at a time (an advisory lock of the session); each migration is a transaction with a lock
time-out, tried again when a reader was in its way.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import asyncpg
import tenacity

from boost_streams.errors import MayNotMigrate, Unavailable
from db.migrations import HEAD

#: How long a migration waits for a table lock before it gives way and tries again (milliseconds).
LOCK_TIMEOUT_MS = 200
#: PostgreSQL: insufficient_privilege.
_NO_RIGHTS = "42501"
_ADVISORY_LOCK = 0x426F6F7374  # "Boost"
_ATTEMPTS = 50
#: Alembic keeps what it works on in globals: two databases cannot be migrated by one process at once.
_one_at_a_time = threading.Lock()
_CURRENT_REVISION = "SELECT version_num FROM boost_schema_version"


async def schema_revision(connection: Any) -> str | None:
    """Return the revision of the schema, or None for a database that was never migrated."""
    try:
        revision: str | None = await connection.fetchval(_CURRENT_REVISION)
    except asyncpg.UndefinedTableError:
        return None
    return revision


def schema_fits(revision: str | None) -> bool:
    """Tell whether this release works on a schema: its own, or a newer one. Migrations expand first (docs/adr/0016)."""
    return revision is not None and revision >= HEAD


async def migrate(database_url: str) -> None:
    """Bring the database to the newest schema; a quick look when it is there already.

    Raises:
        Unavailable: The server does not answer, or a reader stood in the way of every attempt.
        MayNotMigrate: The login has not got the rights.
    """
    try:
        connection = await asyncpg.connect(database_url, timeout=10)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise Unavailable(f"PostgreSQL does not answer: {error}") from error
    try:
        if schema_fits(await schema_revision(connection)):
            return
    finally:
        await connection.close()
    await asyncio.to_thread(_upgrade, database_url)


def _upgrade(database_url: str) -> None:
    # Imported here: a worker that finds its schema current pays nothing for the migration library.
    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    url = sqlalchemy.make_url(database_url.replace("postgres://", "postgresql://", 1))
    engine = sqlalchemy.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=sqlalchemy.NullPool)
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_lock_timeout),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        reraise=True,
    )
    with engine.connect() as guard:
        guard.exec_driver_sql(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})")
        try:
            for attempt in retry:
                with attempt, engine.connect() as connection:
                    connection.exec_driver_sql(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
                    connection.commit()
                    config.attributes["connection"] = connection
                    with _one_at_a_time:
                        command.upgrade(config, "head")
        except sqlalchemy.exc.ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_RIGHTS:
                raise
            raise MayNotMigrate(
                f"this login may not change the schema ({str(error.orig).partition(chr(10))[0]}): as an administrator, "
                "GRANT boost_owner, boost_pipeline, boost_tenant TO the user of DATABASE_URL, or let DATABASE_URL name "
                "the login that migrated before; the first migration needs CREATEROLE and the right to CREATE in "
                "the database"
            ) from error
        except sqlalchemy.exc.OperationalError as error:
            raise Unavailable(
                f"the schema could not be changed: {error.orig}; try again when readers are done"
            ) from error
        finally:
            guard.rollback()
            guard.exec_driver_sql(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})")
    engine.dispose()


def _is_lock_timeout(error: BaseException) -> bool:
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "55P03"
