"""Counters per project, metric, hour or day, and dimensions. Additions only, so that order does not matter."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec
from asyncpg.pgproto.pgproto import UUID as FastUUID  # a uuid.UUID, sent as it is

from db.pool import Connection

#: Locks rows in the order of their keys, if any (db/migrations/sql/0009_rows_in_one_list.sql).
_ADD = "SELECT boost_add_counted($1::boost_counted[], $2::int, $3::boolean)"
#: How many deltas are folded in one transaction.
FOLDED_AT_ONCE = 500
_FOLD = "SELECT boost_fold_rollups($1, $2)"
_UNFOLDED_BEFORE = """
SELECT EXISTS (
    SELECT 1 FROM rollup_deltas d WHERE d.id > (SELECT f.folded_to FROM rollup_folds f) AND d.cutover < $1)
"""
_NEWEST_CUTOVER = "SELECT boost_cutover()"

Addition = tuple[int, Decimal]
_NO_SOURCE = (None, None, None)


class Source(NamedTuple):
    """Whose effect a counter is: the type of its events, and the handler and version that answered."""

    event_type: str
    handler: str
    version: int


class RollupKey(NamedTuple):
    """Names one counter. Totals, which no handler answers for, have no source."""

    project_id: UUID
    metric: str
    bucket_start: dt.datetime
    dimensions: tuple[str, ...]
    source: Source | None = None


def counter_key(dimensions: tuple[str, ...], source: Source | None) -> UUID:
    """Return the 16-byte key of dimensions and source: BLAKE2b over their JSON, so that they may be long."""
    named = dimensions if source is None else (dimensions, source)
    return FastUUID(hashlib.blake2b(msgspec.json.encode(named), digest_size=16).digest())


@lru_cache(maxsize=8192)
def _written(dimensions: tuple[str, ...], source: Source | None) -> tuple[UUID, str]:
    """Return the key of a counter, and its dimensions as PostgreSQL writes an array."""
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in dimensions)
    return counter_key(dimensions, source), "{" + ",".join(quoted) + "}"


def addition_rows(additions: Mapping[RollupKey, Addition]) -> list[tuple[object, ...]]:
    """Return the list of `boost_add_counted`, in any order."""
    seconds = {start: int(start.timestamp()) for start in {key.bucket_start for key in additions}}
    return [
        (
            project_id,
            metric,
            seconds[start],
            *_written(dimensions, source),
            count,
            amount or None,
            *(source or _NO_SOURCE),
        )
        for (project_id, metric, start, dimensions, source), (count, amount) in additions.items()
    ]


async def newest_cutover_across_projects(connection: Connection) -> int:
    """Return the number of the newest cut-over, 0 before the first; ask before anything of a settlement is written."""
    newest: int = await connection.fetchval(_NEWEST_CUTOVER)
    return newest


async def add_across_projects(
    connection: Connection, additions: Mapping[RollupKey, Addition], cutover: int, *, replayed: bool = False
) -> None:
    """Add counts and amounts, in one statement.

    What a replay counts is in `rollups` then, rows locked in one order; what settles is in `rollup_deltas` until it is
    folded. The view `current_rollups` has both.

    Args:
        connection: A pipeline connection.
        additions: What to add.
        cutover: The newest cut-over when the events settled, or the number of the replay that counts them again.
        replayed: Whether it is a replay.
    """
    if additions:
        await connection.execute(_ADD, addition_rows(additions), cutover, replayed)


async def fold_across_projects(
    connection: Connection, *, at_once: bool = False, most: int = FOLDED_AT_ONCE
) -> int | None:
    """Fold deltas into rollups, if it is due or `at_once`, `most` in each transaction, until none is left.

    Returns:
        How many; None when it is not due, or another process folds: then nothing was done.
    """
    folded: int | None = None
    while True:
        taken: int | None = await connection.fetchval(_FOLD, most, at_once or folded is not None)
        if taken is not None:
            folded = (folded or 0) + taken
        if taken is None or taken < most:
            return folded


async def has_unfolded_before_across_projects(connection: Connection, cutover: int) -> bool:
    """Tell whether deltas from before a cut-over are left."""
    found: bool = await connection.fetchval(_UNFOLDED_BEFORE, cutover)
    return found
