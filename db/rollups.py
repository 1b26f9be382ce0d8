"""Counters per project, metric, hour or day, and dimensions. Additions only, so that order does not matter."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec
from asyncpg.pgproto.pgproto import UUID as FastUUID  # a uuid.UUID, sent as it is

from db.pool import Connection

#: Locks rows in the order of the lists (db/migrations/sql/0003_settle_at_once.sql).
_ADD = """
SELECT boost_add_rollups($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::bigint[], $7::numeric[])
"""

Addition = tuple[int, Decimal]


class RollupKey(NamedTuple):
    """Names one counter."""

    project_id: UUID
    metric: str
    bucket_start: dt.datetime
    dimensions: tuple[str, ...]


def dimensions_key(dimensions: tuple[str, ...]) -> UUID:
    """Return the 16-byte key of dimensions: BLAKE2b over their JSON, so that they may be long."""
    return FastUUID(hashlib.blake2b(msgspec.json.encode(dimensions), digest_size=16).digest())


@lru_cache(maxsize=8192)
def _written(dimensions: tuple[str, ...]) -> tuple[UUID, str]:
    """Return the key of dimensions, and themselves as PostgreSQL writes an array."""
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in dimensions)
    return dimensions_key(dimensions), "{" + ",".join(quoted) + "}"


def addition_parameters(additions: Mapping[RollupKey, Addition]) -> tuple[Sequence[object], ...]:
    """Return the lists of `boost_add_rollups`, sorted by the primary key, texts as their bytes sort."""
    rows = sorted(
        (key.project_id.bytes, key.metric.encode(), key.bucket_start, *_written(key.dimensions), key, *added)
        for key, added in additions.items()
    )
    return (
        [row[5].project_id for row in rows],
        [row[5].metric for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4] for row in rows],
        [row[6] for row in rows],
        [row[7] or None for row in rows],
    )


async def add_across_projects(connection: Connection, additions: Mapping[RollupKey, Addition]) -> None:
    """Add counts and amounts, one statement, rows locked in one order. The last locks a settlement takes."""
    if additions:
        await connection.execute(_ADD, *addition_parameters(additions))
