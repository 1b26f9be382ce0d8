"""A database whose connection is cut at a chosen statement: before it is sent, or after the server did it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from db.pool import Connection, Database, database_errors


class ProcessDied(BaseException):
    """The process is gone at this point: nothing that would tidy up after an error runs."""


@dataclass(slots=True)
class Cut:
    """Where to cut: at the how manieth statement (from 0; BEGIN and COMMIT count), and on which side of it."""

    statement: int
    #: The server did what it was told, and its answer is lost; else it was never told.
    after: bool
    #: The process dies as well; else it sees that the connection is gone, and goes on.
    dies: bool


class Scissors:
    """Counts statements and cuts once."""

    def __init__(self) -> None:
        self.cut: Cut | None = None
        self._count = 0

    def arm(self, cut: Cut | None) -> None:
        """Count from now on, and cut there; None cuts nowhere."""
        self.cut, self._count = cut, 0

    async def around(self, connection: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        """Make a call, or cut before or after it."""
        number, self._count = self._count, self._count + 1
        cut = self.cut
        if cut is None or number != cut.statement:
            return await call()
        if cut.after:
            await call()
        self.cut = None
        connection.terminate()
        raise ProcessDied if cut.dies else asyncpg.ConnectionDoesNotExistError("cut")


class _Transaction:
    def __init__(self, scissors: Scissors, connection: Any) -> None:
        self._scissors = scissors
        self._connection = connection
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._scissors.around(self._connection, self._transaction.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            await self._scissors.around(self._connection, self._transaction.commit)
        elif not self._connection.is_closed():
            await self._transaction.rollback()


class _Cuttable:
    def __init__(self, scissors: Scissors, connection: Any) -> None:
        self._scissors = scissors
        self._connection = connection

    def transaction(self) -> _Transaction:
        return _Transaction(self._scissors, self._connection)

    def get_server_version(self) -> Any:
        return self._connection.get_server_version()

    @property
    def _con(self) -> Any:
        """The driver's own connection, as a pool's proxy has it."""
        return self._connection._con

    def __getattr__(self, name: str) -> Any:
        if name not in {"execute", "fetch", "fetchrow", "fetchval", "fetchmany"}:
            raise AttributeError(name)

        async def call(*arguments: Any, **options: Any) -> Any:
            method = getattr(self._connection, name)
            return await self._scissors.around(self._connection, lambda: method(*arguments, **options))

        return call


class CuttableDatabase(Database):
    """A `Database` with scissors at its connections."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pipeline_connections=3, tenant_connections=2)
        self.scissors = Scissors()

    @asynccontextmanager
    async def across_projects(self) -> AsyncIterator[Connection]:
        """Lend a connection that may be cut."""
        with database_errors():
            async with super().across_projects() as connection:
                yield _Cuttable(self.scissors, connection)  # type: ignore[misc]

    @asynccontextmanager
    async def for_project(self, project_id: UUID) -> AsyncIterator[Connection]:
        """Lend a connection that may be cut, in a transaction."""
        with database_errors():
            async with self._pool("boost_tenant").acquire() as connection:
                cuttable = _Cuttable(self.scissors, connection)
                async with cuttable.transaction():
                    await cuttable.execute("SELECT set_config('boost.project_id', $1, true)", str(project_id))
                    yield cuttable  # type: ignore[misc]
