"""Connections to PostgreSQL: one pool per role, every statement with a deadline.

`pipeline` connections run as `boost_pipeline` and see all projects; `tenant` transactions run as
`boost_tenant` and see the one project they name, whatever the statement says.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from boost_streams.errors import Unavailable
from db.codecs import write_uuid_lists_here
from db.deadline import ANSWER_BY

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[Any] | asyncpg.Connection[Any]
else:
    Connection = Any

#: How long one statement may take before it is cancelled (seconds).
STATEMENT_SECONDS = 10.0
#: How long a caller waits for a free connection (seconds).
ACQUIRE_SECONDS = 2.0
#: How long opening a connection may take (seconds).
CONNECT_SECONDS = 5.0
#: What a client should wait after "unavailable" (seconds).
RETRY_AFTER_SECONDS = 1.0
#: How long the server may take to confirm that a statement was cancelled (seconds).
_CANCEL_SECONDS = 1.0
#: What was sent to the server and not answered for so long makes a connection broken (milliseconds).
_UNACKNOWLEDGED_MS = 4000

#: Every statement of the pools looks rows up by key, so its plan must not hang on statistics: a partition
#: analysed while empty gets a sequential scan in every cached plan, and keeps it while it fills
#: (tests/integration/test_plans.py). A table that no index leads into is still read in sequence.
_PLAN_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Without it a list joined to a range of ids may be planned range first, list again for every row: quadratic.
    "enable_material": "off",
    # A generic plan takes a list for ten rows, and so looks each up by key; and nothing is planned per call.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}

_SET_PROJECT = "SELECT set_config('boost.project_id', $1, true)"

#: What asyncpg raises when the server, or the way to it, is gone; nothing was decided about the data.
_AWAY = (
    OSError,
    TimeoutError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that breaks at the moment at which a statement is sent
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.PostgresSystemError,
)


#: A statement that ends so may still be running.
_BROKEN_OFF = (TimeoutError, asyncio.CancelledError)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn "the server is away" in all its forms into `Unavailable`."""
    try:
        yield
    except _AWAY as error:
        raise Unavailable(
            f"PostgreSQL does not answer ({type(error).__name__}); nothing was decided, try again",
            retry_after=RETRY_AFTER_SECONDS,
        ) from error


def _jsonb_out(value: bytes) -> bytes:
    return b"\x01" + value


def _jsonb_in(value: bytes) -> bytes:
    return bytes(value[1:])


async def prepare_connection(connection: Any) -> None:
    """Make `jsonb` travel as the bytes of its text, since nobody looks inside; write lists of ids ourselves.

    And have the kernel give up a connection whose other end is gone without a word, which TCP would try for minutes.
    """
    _give_up_silent_peers(connection)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_jsonb_out, decoder=_jsonb_in, format="binary"
    )
    write_uuid_lists_here(connection)


def _give_up_silent_peers(connection: Any) -> None:
    own: Any = connection._transport.get_extra_info("socket")
    if own is None or own.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)


async def _keep_session(_: Any) -> None:
    """Give a connection back as it is: nobody changes its session, only transactions (`SET LOCAL`, xact locks).

    asyncpg's own reset is a round trip after every use, as much as a small commit takes itself.
    """


async def _give_back(pool: asyncpg.Pool[Any], connection: Any) -> None:
    """Give back a connection whose statement was broken off; it is closed unless the server confirms that in time."""
    with suppress(Exception):
        await pool.release(connection, timeout=_CANCEL_SECONDS)


class Database:
    """The pools of one process. Open with `open()`, close with `close()`."""

    def __init__(self, url: str, *, pipeline_connections: int = 6, tenant_connections: int = 4) -> None:
        self._url = url
        self._sizes = {"boost_pipeline": pipeline_connections, "boost_tenant": tenant_connections}
        self._pools: dict[str, asyncpg.Pool[Any]] = {}
        self._giving_back: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the pools.

        Raises:
            Unavailable: The server does not answer, or the database was never migrated.
        """
        try:
            with database_errors():
                for role, size in self._sizes.items():
                    self._pools[role] = await self._open_pool(role, size)
        except Unavailable:
            await self.close()
            raise
        except asyncpg.PostgresError as error:
            await self.close()
            raise Unavailable(
                f"PostgreSQL refuses the connection ({error}); a database that is new to Boost needs `boost migrate`",
                retry_after=RETRY_AFTER_SECONDS,
            ) from error

    async def _open_pool(self, role: str, size: int) -> asyncpg.Pool[Any]:
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            max_inactive_connection_lifetime=300,
            init=prepare_connection,
            reset=_keep_session,
            server_settings={
                "role": role,
                "application_name": f"boost {role.removeprefix('boost_')}",
                "timezone": "UTC",
                # A transaction whose client froze must not hold its locks for ever.
                "idle_in_transaction_session_timeout": "30000",
                # Where the way to the server is cut, nobody tells it that a statement is no longer waited for.
                "statement_timeout": f"{STATEMENT_SECONDS * 1000:.0f}",
                **_PLAN_SETTINGS,
            },
        )

    async def close(self) -> None:
        """Close the pools: politely for two seconds, then at once."""
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), 2)
            except TimeoutError:
                pool.terminate()
        self._pools.clear()

    @asynccontextmanager
    async def across_projects(self) -> AsyncIterator[Connection]:
        """Lend a connection that runs as `boost_pipeline`, outside a transaction.

        Raises:
            Unavailable: The server does not answer, or every connection is busy for too long.
        """
        with database_errors():
            async with self._lend("boost_pipeline") as connection:
                yield connection

    @asynccontextmanager
    async def for_project(self, project_id: UUID) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction that sees one project only.

        Raises:
            Unavailable: The server does not answer, or every connection is busy for too long.
        """
        with database_errors():
            async with self._lend("boost_tenant") as connection:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(_SET_PROJECT, str(project_id))
                try:
                    yield connection
                except _BROKEN_OFF:
                    raise  # a server that is frozen would not answer to ROLLBACK either; it comes with giving back
                except BaseException:
                    await transaction.rollback()
                    raise
                await transaction.commit()

    @asynccontextmanager
    async def _lend(self, role: str) -> AsyncIterator[Connection]:
        """Lend a connection for as long as the request at hand has time (`db/deadline.py`).

        Where a statement is broken off, asyncpg asks the server to cancel it and waits for that. A server that is
        frozen does not answer: nobody is kept waiting for it.
        """
        pool = self._pool(role)
        async with asyncio.timeout_at(ANSWER_BY.get()):
            connection = await pool.acquire(timeout=ACQUIRE_SECONDS)
            try:
                yield connection
            except _BROKEN_OFF:
                task = asyncio.create_task(_give_back(pool, connection))
                self._giving_back.add(task)
                task.add_done_callback(self._giving_back.discard)
                raise
            except BaseException:
                await pool.release(connection)
                raise
            await pool.release(connection)

    async def connect(self, *, role: str = "boost_pipeline") -> asyncpg.Connection[Any]:
        """Open a connection outside the pools, for LISTEN or for DDL; the caller closes it."""
        with database_errors():
            return await asyncpg.connect(
                self._url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS, server_settings={"role": role}
            )

    def _pool(self, role: str) -> asyncpg.Pool[Any]:
        try:
            return self._pools[role]
        except KeyError:
            raise Unavailable("the database is not open yet", retry_after=RETRY_AFTER_SECONDS) from None
