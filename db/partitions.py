"""The daily partitions of `events`: made ahead, attached without blocking, dropped by age.

CREATE then ATTACH, and DETACH CONCURRENTLY then DROP, each with a short lock time-out and retries:
`CREATE … PARTITION OF` and a plain DROP block every insert while any reader's transaction is open.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import asyncpg
import tenacity

from boost_streams.event_id import bounds_of_day
from boost_streams.logs import get_logger
from db.pool import Database, database_errors

#: How many days ahead of today partitions are kept.
DAYS_AHEAD = 3
#: How many days behind today: a worker whose clock is a little slow still finds its partition.
DAYS_BEHIND = 1
LOCK_TIMEOUT_MS = 200
_ATTEMPTS = 40
_ADVISORY_LOCK = 0x706172746974  # "partit"

_log = get_logger(__name__)

_EXISTING = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'events'::regclass AND NOT i.inhdetachpending
"""
# Columns that settling changes come last in a partition, whatever their place in the parent: the log of an update holds
# the tuple from the first byte that changed to the last, and in between would lie the payload (docs/adr/0013).
_COLUMNS = """
SELECT string_agg(format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')),
    ', ' ORDER BY a.attname IN ('status', 'attempt', 'settled_at', 'error', 'cutover'), a.attnum)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'events'::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""
_CHECKS = """
SELECT coalesce(string_agg(format(', CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ''), '')
FROM pg_constraint WHERE conrelid = 'events'::regclass AND contype = 'c'
"""
# A new partition is analysed as the parent says: whoever wants statistics of another column alters `events`.
_STATISTICS = """
SELECT string_agg(format('ALTER COLUMN %I SET STATISTICS %s', attname, attstattarget), ', ')
FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0
"""
_DATABASE_NOW = "SELECT now()"
_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_UNLOCK = "SELECT pg_advisory_unlock($1)"

# Settling leaves an old version beside each row. A vacuum reads only the pages that changed since the last one, so it
# comes at every chance it has (`autovacuum_naptime` of the server), whatever the size of the day (docs/adr/0022). It
# pauses as the server says: without pauses, what it writes after a checkpoint fills the log, and commits wait.
_STORAGE = (
    "fillfactor = 50, autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.05, "
    "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000"
)

_retrying = tenacity.AsyncRetrying(
    retry=tenacity.retry_if_exception_type((asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)),
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    wait=tenacity.wait_random_exponential(multiplier=0.02, max=0.5),
    reraise=True,
)


def partition_name(day: dt.date) -> str:
    """Return the name of the partition of a UTC day."""
    return f"events_{day:%Y%m%d}"


async def existing_days(connection: Any) -> set[dt.date]:
    """Return the UTC days whose partitions are attached."""
    names = [row["relname"] for row in await connection.fetch(_EXISTING)]
    return {dt.datetime.strptime(name[-8:], "%Y%m%d").replace(tzinfo=dt.UTC).date() for name in names}


async def has_partition_for_next_hour(connection: Any) -> bool:
    """Tell whether an event made now, or within the next hour, finds its partition."""
    now: dt.datetime = await connection.fetchval(_DATABASE_NOW)
    days = await existing_days(connection)
    return now.date() in days and (now + dt.timedelta(hours=1)).date() in days


async def ensure_partitions(database: Database, *, now: dt.datetime | None = None) -> list[dt.date]:
    """Make the partitions from yesterday until three days ahead; return the days that were made.

    Args:
        now: The time to count from; the database's clock by default.

    Raises:
        Unavailable: The server does not answer.
        asyncpg.LockNotAvailableError: A reader stood in the way of every attempt.
    """
    connection = await database.connect(role="boost_owner")
    made = []
    try:
        with database_errors():
            await connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
            today = (now or await connection.fetchval(_DATABASE_NOW)).date()
            for offset in range(-DAYS_BEHIND, DAYS_AHEAD + 1):
                day = today + dt.timedelta(days=offset)
                if day not in await existing_days(connection):
                    await _retrying(_create_and_attach, connection, day)
                    made.append(day)
    finally:
        await connection.close()
    return made


async def _create_and_attach(connection: Any, day: dt.date) -> None:
    name = partition_name(day)
    low, high = bounds_of_day(day)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
        if day in await existing_days(connection):
            return
        columns, checks = await connection.fetchval(_COLUMNS), await connection.fetchval(_CHECKS)
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}{checks}) WITH ({_STORAGE})")
        if statistics := await connection.fetchval(_STATISTICS):
            await connection.execute(f"ALTER TABLE {name} {statistics}")
        await connection.execute(
            f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {name}_day, "
            f"ADD CONSTRAINT {name}_day CHECK (id >= '{low}' AND id < '{high}')"
        )
        await connection.execute(f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')")
        await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {name}_day")
    _log.info("partition made", action="partition_make", partition=name)


async def drop_expired_partitions(database: Database, retention_days: int) -> list[dt.date]:
    """Drop the partitions that hold only events older than the retention (days; 0 keeps everything).

    A partition that still holds an unsettled event is kept: what was accepted is settled first.
    """
    if retention_days == 0:
        return []
    connection = await database.connect(role="boost_owner")
    try:
        with database_errors():
            await connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
            oldest_kept = (await connection.fetchval(_DATABASE_NOW)).date() - dt.timedelta(days=retention_days)
            if not await connection.fetchval(_TRY_LOCK, _ADVISORY_LOCK):
                return []
            try:
                expired = sorted(day for day in await existing_days(connection) if day < oldest_kept)
                dropped = [day for day in expired if await _is_settled(database, day)]
                for day in dropped:
                    await _retrying(_detach_and_drop, connection, partition_name(day))
            finally:
                await connection.fetchval(_UNLOCK, _ADVISORY_LOCK)
    finally:
        await connection.close()
    return dropped


_UNSETTLED_BEFORE = """
SELECT EXISTS (SELECT 1 FROM event_batches WHERE id < $1 AND unsettled > 0)
    OR EXISTS (SELECT 1 FROM event_retries WHERE event_id < $1)
"""


async def _is_settled(database: Database, day: dt.date) -> bool:
    async with database.across_projects() as connection:
        return not await connection.fetchval(_UNSETTLED_BEFORE, bounds_of_day(day)[1])


async def _detach_and_drop(connection: Any, name: str) -> None:
    await connection.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY")
    await connection.execute(f"DROP TABLE {name}")
    _log.info("partition dropped", action="partition_drop", partition=name)
