"""Counters per project, metric, hour or day, and dimensions. Additions only, so that order does not matter."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import msgspec

from db.pool import Connection

_ADD = """
INSERT INTO rollups AS r (project_id, metric, bucket_start, key, dimensions, count, amount)
SELECT t.project_id, t.metric, t.bucket_start, t.key,
       ARRAY(SELECT jsonb_array_elements_text(t.dimensions)), t.count, t.amount
FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::jsonb[], $6::bigint[], $7::numeric[])
    AS t (project_id, metric, bucket_start, key, dimensions, count, amount)
ORDER BY t.project_id, t.metric COLLATE "C", t.bucket_start, t.key
ON CONFLICT (project_id, metric, bucket_start, key) DO UPDATE SET
    count = r.count + excluded.count, amount = r.amount + excluded.amount
"""


@dataclass(frozen=True, slots=True, order=True)
class RollupKey:
    """Names one counter."""

    project_id: UUID
    metric: str
    bucket_start: dt.datetime
    dimensions: tuple[str, ...]


def dimensions_key(dimensions: tuple[str, ...]) -> UUID:
    """Return the 16-byte key of dimensions: BLAKE2b over their JSON, so that they may be long."""
    return UUID(bytes=hashlib.blake2b(msgspec.json.encode(dimensions), digest_size=16).digest())


async def add_across_projects(connection: Connection, additions: Mapping[RollupKey, tuple[int, Decimal]]) -> None:
    """Add counts and amounts, one statement, rows locked in one order. The last locks a settlement takes."""
    if not additions:
        return
    rows = sorted(
        ((key, dimensions_key(key.dimensions), *added) for key, added in additions.items()),
        key=lambda row: (row[0].project_id, row[0].metric, row[0].bucket_start, row[1]),
    )
    await connection.execute(
        _ADD,
        [row[0].project_id for row in rows],
        [row[0].metric for row in rows],
        [row[0].bucket_start for row in rows],
        [row[1] for row in rows],
        [msgspec.json.encode(row[0].dimensions) for row in rows],
        [row[2] for row in rows],
        [row[3] for row in rows],
    )
