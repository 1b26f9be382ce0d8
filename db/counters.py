"""Counters of a project as questions read them: added up over handlers, versions and replays."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from db.pool import Connection

_COUNTED = """
SELECT metric, bucket_start, dimensions, count, amount FROM current_rollups
WHERE project_id = $1 AND bucket_start >= $2 AND bucket_start < $3 AND (count <> 0 OR amount <> 0)
"""
_NEWEST_FIRST = "ORDER BY bucket_start DESC, metric, count DESC, dimensions LIMIT $4"
_LIST = f"{_COUNTED} {_NEWEST_FIRST}"
# A statement of its own: the view then reads one range of the primary key.
_LIST_OF_METRIC = f"{_COUNTED} AND metric = $5 {_NEWEST_FIRST}"


@dataclass(frozen=True, slots=True)
class Counter:
    """What one metric counted in one hour or UTC day, for one set of dimensions."""

    metric: str
    bucket_start: dt.datetime
    dimensions: tuple[str, ...]
    count: int
    amount: Decimal


async def list_counters(
    connection: Connection,
    project_id: UUID,
    *,
    since: dt.datetime,
    until: dt.datetime,
    limit: int,
    metric: str | None = None,
) -> list[Counter]:
    """List at most `limit` counters of buckets from `since` on and before `until`, the newest first."""
    bounds = (project_id, since, until, limit)
    if metric is None:
        rows = await connection.fetch(_LIST, *bounds)
    else:
        rows = await connection.fetch(_LIST_OF_METRIC, *bounds, metric)
    return [Counter(**{**row, "dimensions": tuple(row["dimensions"])}) for row in rows]
