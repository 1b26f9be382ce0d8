"""Partitions are like their parent in all but the order of columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import db.migrations
from boost_streams.event_id import day_of, new_batch_id
from db import settlement
from db.pool import Database
from tests.support.projects import TestProject
from tests.support.stored_events import store

_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       pg_get_expr(d.adbin, d.adrelid) AS default_value
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_PARTITIONS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'events'::regclass"
_OPTIONS = "SELECT coalesce(array_to_string(reloptions, ','), '') FROM pg_class WHERE oid = $1::text::regclass"
_TARGETS = "SELECT attname, attstattarget FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
_INDEXES = "SELECT pg_get_indexdef(indexrelid) AS definition FROM pg_index WHERE indrelid = $1::text::regclass"
_UPDATES = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1"
MIGRATIONS = Path(db.migrations.__file__).parent / "sql"
CHANGING = ["status", "attempt", "settled_at", "error", "cutover"]


async def columns_of(connection: Any, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await connection.fetch(_COLUMNS, table)]


async def test_what_settling_changes_stands_at_the_end(database: Database) -> None:
    async with database.across_projects() as connection:
        parent = await columns_of(connection, "events")
        names = [row["name"] for row in await connection.fetch(_PARTITIONS)]
        assert len(names) >= 4
        for name in names:
            columns = await columns_of(connection, name)
            assert sorted(columns) == sorted(parent), name
            assert [column[0] for column in columns][-len(CHANGING) :] == CHANGING, name


async def test_no_index_has_a_column_that_settling_changes(database: Database) -> None:
    async with database.across_projects() as connection:
        names = [row["name"] for row in await connection.fetch(_PARTITIONS)]
        for name in ["events", *names]:
            indexes = [row["definition"] for row in await connection.fetch(_INDEXES, name)]
            assert indexes
            assert not [index for index in indexes if set(re.findall(r"\w+", index)) & set(CHANGING)]


async def test_settling_leaves_the_indexes_as_they_are(database: Database, project: TestProject) -> None:
    """Each update finds room in its own page (HOT), whether an event was processed or failed."""
    batch_id = new_batch_id()
    ids = await store(database, project.id, *["page_view"] * 300, payload=b'{"pad": "%s"}' % (b"x" * 300))
    done = settlement.FirstAttempts({project.id: ids}, dict.fromkeys(ids[::10], b'{"code": "bad"}'), [], {})
    async with database.across_projects() as connection:
        assert await settlement.settle_across_projects(connection, done)
        await connection.execute("SELECT pg_stat_force_next_flush()")
        updates = await connection.fetchrow(_UPDATES, f"events_{day_of(batch_id):%Y%m%d}")
    assert updates is not None
    assert tuple(updates) == (300, 300)


async def test_little_is_read_to_keep_statistics(database: Database) -> None:
    """ANALYZE reads 300 rows per unit of the largest target, and sorts them by every column that has one."""
    async with database.across_projects() as connection:
        names = [row["name"] for row in await connection.fetch(_PARTITIONS)]
        assert len(names) >= 4
        for name in ["events", *names, "event_keys_a", "event_keys_b"]:
            targets = {row["attname"]: row["attstattarget"] for row in await connection.fetch(_TARGETS, name)}
            assert all(target is not None and 0 <= target <= 10 for target in targets.values()), (name, targets)
            assert [targets.get(column, 0) for column in ("payload", "error", "key")] == [0, 0, 0], name


async def test_a_vacuum_pauses_as_the_server_says(database: Database) -> None:
    """One that never pauses writes a page of log for each page of the table, and every commit waits meanwhile."""
    migration = (MIGRATIONS / "0014_a_vacuum_takes_its_time.sql").read_text()
    connection = await database.connect(role="boost_owner")
    try:
        names = [row["name"] for row in await connection.fetch(_PARTITIONS)]
        assert len(names) >= 4
        for name in names:
            assert "cost" not in await connection.fetchval(_OPTIONS, name)
        await connection.execute(f"ALTER TABLE {names[0]} SET (autovacuum_vacuum_cost_delay = 0)")
        await connection.execute(migration)
        options = await connection.fetchval(_OPTIONS, names[0])
    finally:
        await connection.close()
    assert "cost" not in options
    assert "autovacuum_vacuum_threshold=5000" in options
