"""Every question that the bench asks of PostgreSQL: backlog, WAL, sizes, dead rows, times."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

_UNSETTLED = "SELECT coalesce(sum(unsettled), 0)::bigint FROM event_batches"
_COUNT = "SELECT count(*) FROM events"
_WAL_SINCE = "SELECT (pg_current_wal_lsn() - %s::pg_lsn)::bigint"
_WAL_NOW = "SELECT pg_current_wal_lsn()::text"
_EMIT = "SELECT pg_logical_emit_message(false, 'bench', '')"
_NEXT_SEGMENT = "SELECT pg_switch_wal()"
_TABLE_BYTES = """
SELECT coalesce(sum(pg_table_size(i.inhrelid)), 0)::bigint, coalesce(sum(pg_indexes_size(i.inhrelid)), 0)::bigint
FROM pg_inherits i WHERE i.inhparent = 'events'::regclass
"""
_DEAD = """
SELECT s.relname, s.n_live_tup, s.n_dead_tup, s.autovacuum_count, s.vacuum_count, s.n_tup_upd, s.n_tup_hot_upd
FROM pg_stat_user_tables s WHERE s.n_live_tup + s.n_dead_tup > 0 ORDER BY s.relname
"""
_SETTLE_TIMES = """
SELECT extract(epoch FROM settled_at - received_at)::float8 AS seconds FROM events
WHERE received_at >= %s AND settled_at IS NOT NULL
"""
_SETTLED_SPAN = """
SELECT count(*), extract(epoch FROM max(settled_at) - min(settled_at))::float8 FROM events WHERE received_at >= %s
"""


@dataclass(frozen=True, slots=True)
class TableState:
    """Live and dead rows of a table as the statistics have them, and how it was vacuumed and updated."""

    name: str
    live: int
    dead: int
    autovacuums: int
    vacuums: int
    updates: int
    hot_updates: int


class Question:
    """One connection, as the server's superuser, outside transactions."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def one(self, statement: str, *arguments: object) -> Any:
        """Return the only value of the only row."""
        row = self._connection.execute(statement.encode(), arguments).fetchone()
        return None if row is None else row[0]

    def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Return every row."""
        return self._connection.execute(statement.encode(), arguments).fetchall()

    def run(self, statement: str) -> None:
        """Run a command."""
        self._connection.execute(statement.encode())

    def unsettled(self) -> int:
        """Count the events that are committed and not settled: the small table of batches knows."""
        return int(self.one(_UNSETTLED))

    def events(self) -> int:
        """Count the events."""
        return int(self.one(_COUNT))

    def now(self) -> Any:
        """Return the server's time."""
        return self.one("SELECT clock_timestamp()")

    def wal(self) -> str:
        """Return the present end of the write-ahead log."""
        return str(self.one(_WAL_NOW))

    def wal_bytes_since(self, lsn: str) -> int:
        """Return how many bytes of WAL were written since."""
        return int(self.one(_WAL_SINCE, lsn))

    def checkpoint(self) -> None:
        """Flush everything, so that the next run starts like the one before."""
        self.run("CHECKPOINT")

    def make_log_segments(self, count: int) -> None:
        """Have so many files of the write-ahead log made, to be written over (`min_wal_size` keeps them)."""
        for _ in range(count):
            self.run(_EMIT)
            self.run(_NEXT_SEGMENT)
        self.checkpoint()

    def event_table_bytes(self) -> tuple[int, int]:
        """Return the size of the partitions of `events`: heap and TOAST, and indexes (bytes)."""
        (row,) = self.rows(_TABLE_BYTES)
        return int(row[0]), int(row[1])

    def table_states(self) -> list[TableState]:
        """Return live and dead rows of every table that has any."""
        return [TableState(*row) for row in self.rows(_DEAD)]

    def settle_seconds(self, since: Any) -> list[float]:
        """Return how long each event received since took from its commit to its settlement (seconds)."""
        return [row[0] for row in self.rows(_SETTLE_TIMES, since)]

    def settled_span(self, since: Any) -> tuple[int, float]:
        """Return how many events were received since, and the seconds from the first settlement to the last."""
        (row,) = self.rows(_SETTLED_SPAN, since)
        return int(row[0]), float(row[1] or 0.0)


@contextlib.contextmanager
def ask(url: str) -> Iterator[Question]:
    """Lend a connection for questions."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield Question(connection)


def clone_database(server_url: str, name: str, template: str) -> None:
    """Make a database as a copy of a template, in place of one of that name."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(**names))
        connection.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))


def drop_database(server_url: str, name: str) -> None:
    """Drop a database, whoever is connected."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def project_ids(url: str) -> list[UUID]:
    """Return the ids of a database's projects, oldest first."""
    with ask(url) as question:
        return [row[0] for row in question.rows("SELECT id FROM projects ORDER BY created_at, id")]
