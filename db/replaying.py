"""What a replay does: it plans, reads stored events in the order of their ids, moves on, and clears away.

A piece's effects and the position after it commit together (docs/adr/0019).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from boost_streams.errors import Conflict
from boost_streams.event_id import first_id_of_day
from boost_streams.records import EventRecord
from db.batches import record_of_row
from db.pool import Connection
from db.replays import Replay, Scope

#: An event whose clock is over a day ahead counts as of its receipt; another day is for the clocks of workers.
_IDS_BEFORE = dt.timedelta(days=2)
#: The day after the oldest may be deleted while the replay begins.
_DAYS_KEPT_SURELY = dt.timedelta(days=3)
#: How many events that are only passed by cost as much as one that is run again.
_PASSED_BY = 10
_NO_ID = UUID(int=0)
_FIRST_OF_TIME = dt.datetime(1, 1, 1, tzinfo=dt.UTC)

_NUMBER_NOW = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
_OLDEST_OPEN = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_PROJECTS = """
SELECT p.id, p.retention_days, now() AS now, newest.id AS newest_id
FROM projects p
CROSS JOIN LATERAL (SELECT e.id FROM events e WHERE e.project_id = p.id ORDER BY e.id DESC LIMIT 1) AS newest
WHERE $1::uuid IS NULL OR p.id = $1
ORDER BY p.id
"""
_START = "UPDATE replays SET state = 'running' WHERE id = $1 AND runner = $2 AND state = 'waiting' RETURNING id"
_PLAN = """
INSERT INTO replay_projects (replay_id, project_id, since, start_id, cutover_id, position)
SELECT $1, t.project_id, t.since, t.start_id, t.cutover_id, t.start_id
FROM unnest($2::uuid[], $3::timestamptz[], $4::uuid[], $5::uuid[]) AS t (project_id, since, start_id, cutover_id)
ORDER BY t.project_id
"""
_NEXT = """
SELECT project_id, since, cutover_id, position FROM replay_projects
WHERE replay_id = $1 AND NOT done ORDER BY project_id LIMIT 1
"""
_END_OF_PIECE = """
SELECT piece.id, count(*) OVER () AS events FROM (
    SELECT e.id FROM events e WHERE e.project_id = $1 AND e.id > $2 AND e.id <= $3 ORDER BY e.id LIMIT $4) AS piece
ORDER BY piece.id DESC LIMIT 1
"""
# What is processed stays so, with the cut-over it settled at: whenever this is read, it finds the same.
_READ = """
SELECT e.id, e.project_id, e.event_type, e.occurred_at, e.received_at, e.payload, e.user_id, e.anonymous_id,
    e.session_id, e.message_id, e.attempt
FROM events e
WHERE e.project_id = $1 AND e.id > $2 AND e.id <= $3 AND e.status = 'processed' AND coalesce(e.cutover, 0) < $4
    AND (e.event_type = ANY ($5::text[])) <> $6 AND e.occurred_at >= $7 AND e.occurred_at < $8
ORDER BY e.id
"""
_ADVANCE = """
WITH project AS (
    UPDATE replay_projects SET position = $5, done = $6
    WHERE replay_id = $1 AND project_id = $3 AND position = $4 AND NOT done RETURNING replay_id
)
UPDATE replays r SET events_read = r.events_read + $7, events_counted = r.events_counted + $8,
    events_refused = r.events_refused + $9, worked_at = now()
FROM project p WHERE r.id = p.replay_id AND r.runner = $2 AND r.state = 'running'
RETURNING r.id
"""
_IS_RUNNER = "SELECT 1 FROM replays WHERE id = $1 AND runner = $2 AND state = 'running'"
_TO_CLEAR = "SELECT project_id, since FROM replay_projects WHERE replay_id = $1 ORDER BY project_id LIMIT 1"
_CLEARED = "DELETE FROM replay_projects WHERE replay_id = $1 AND project_id = $2"
# Counters go a piece of the primary key at a time: those that the replay took the place of or, if it was cancelled, its
# own. Nobody adds to either any more.
_CLEAR = """
WITH piece AS (
    SELECT r.metric, r.bucket_start, r.key, CASE WHEN $5 THEN r.replayed AND r.cutover = $6
        ELSE r.cutover < $6 AND r.bucket_start >= $7 AND r.bucket_start < $8
            AND (coalesce(r.event_type, boost_event_type_of(r.metric, r.dimensions)) = ANY ($9::text[])) <> $10
        END AS goes
    FROM rollups r WHERE r.project_id = $1 AND (r.metric, r.bucket_start, r.key) > ($2, $3, $4)
    ORDER BY r.metric, r.bucket_start, r.key LIMIT $11
), gone AS (
    DELETE FROM rollups r USING piece p
    WHERE r.project_id = $1 AND r.metric = p.metric AND r.bucket_start = p.bucket_start AND r.key = p.key AND p.goes
    RETURNING r.key
)
SELECT p.metric, p.bucket_start, p.key, (SELECT count(*) FROM gone) AS gone FROM piece p
ORDER BY p.metric DESC, p.bucket_start DESC, p.key DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What is left of a project: events with ids after `position`, up to `cutover_id`, in buckets from `since` on."""

    project_id: UUID
    since: dt.datetime
    cutover_id: UUID
    position: UUID


@dataclass(frozen=True, slots=True)
class Piece:
    """A few events of a part: how many were looked at, those that are to be run again, and the last id."""

    records: Sequence[EventRecord]
    read: int
    last_id: UUID

    @property
    def cost(self) -> float:
        """How many events it is worth of the rate: those that are passed by cost little."""
        return len(self.records) + (self.read - len(self.records)) / _PASSED_BY


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a piece takes its part, and what became of its events."""

    part: Part
    position: UUID
    done: bool
    read: int
    counted: int
    refused: int


async def transaction_number_across_projects(connection: Connection) -> int:
    """Return a number above those of all transactions that have begun to write."""
    number: int = await connection.fetchval(_NUMBER_NOW)
    return number


async def all_ended_across_projects(connection: Connection, number: int) -> bool:
    """Tell whether every transaction with a lower number has ended."""
    oldest: int = await connection.fetchval(_OLDEST_OPEN)
    return oldest >= number


async def plan_parts_across_projects(
    connection: Connection, project_id: UUID | None, since: dt.datetime, until: dt.datetime, retention_days: int
) -> list[Part]:
    """Return what there is to read for each project that has events: from where, and up to which id.

    A bucket whose events may be deleted already, in part, is not counted anew: `since` is later for a project that
    keeps its events for a shorter time.
    """
    parts = []
    for row in await connection.fetch(_PROJECTS, project_id):
        kept = min((days for days in (row["retention_days"], retention_days) if days), default=None)
        first = since
        if kept is not None:
            midnight = row["now"].astimezone(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            first = max(since, midnight - dt.timedelta(days=kept) + _DAYS_KEPT_SURELY)
        start = first_id_of_day((first - _IDS_BEFORE).date())
        if first < until:
            parts.append(Part(row["id"], first, row["newest_id"], start))
    return parts


async def start_replay_across_projects(
    connection: Connection, replay: Replay, runner: UUID, retention_days: int
) -> None:
    """Write down what a replay has to do, once; call it when all that settled before its cut-over has ended.

    Raises:
        Conflict: It was cancelled, or somebody else works on it.
    """
    scope = replay.scope
    async with connection.transaction():
        if await connection.fetchval(_START, replay.id, runner) is None:
            raise Conflict(f"replay {replay.id} was cancelled, or somebody else works on it")
        parts = await plan_parts_across_projects(connection, scope.project_id, scope.since, scope.until, retention_days)
        await connection.execute(
            _PLAN,
            replay.id,
            [part.project_id for part in parts],
            [part.since for part in parts],
            [part.position for part in parts],
            [part.cutover_id for part in parts],
        )


async def next_part_across_projects(connection: Connection, replay_id: int) -> Part | None:
    """Return the first project that is not done, with its position; None when all are."""
    row = await connection.fetchrow(_NEXT, replay_id)
    return None if row is None else Part(**dict(row))


async def read_piece_across_projects(
    connection: Connection, scope: Scope, cutover: int, part: Part, most: int
) -> Piece | None:
    """Read the next piece of a part, looking at `most` events; None when there are no more.

    Its records are those of the scope that settled before the cut-over.
    """
    end = await connection.fetchrow(_END_OF_PIECE, part.project_id, part.position, part.cutover_id, most)
    if end is None:
        return None
    rows = await connection.fetch(
        _READ,
        part.project_id,
        part.position,
        end["id"],
        cutover,
        list(scope.event_types),
        scope.all_others,
        part.since,
        scope.until,
    )
    return Piece([record_of_row(row) for row in rows], end["events"], end["id"])


async def advance_across_projects(connection: Connection, replay_id: int, runner: UUID, step: Advance) -> bool:
    """Move a part on within the caller's transaction, in which the effects are written as well.

    Returns:
        False when it is not where `step` says, the replay is not running, or its runner is another: then the caller has
        to roll back, unless the part is gone with its project.
    """
    moved = await connection.fetchval(
        _ADVANCE,
        replay_id,
        runner,
        step.part.project_id,
        step.part.position,
        step.position,
        step.done,
        step.read,
        step.counted,
        step.refused,
    )
    return moved is not None


async def is_runner_across_projects(connection: Connection, replay_id: int, runner: UUID) -> bool:
    """Tell whether a replay is running, and this is its runner."""
    return await connection.fetchval(_IS_RUNNER, replay_id, runner) is not None


async def clear_away_across_projects(connection: Connection, replay: Replay, most: int) -> int | None:
    """Delete what nobody reads any more for one project of a replay that switched or was cancelled.

    It looks at `most` counters at a time, on a connection outside a transaction; interrupted, it begins with that
    project again.

    Returns:
        How many counters went; None when no project is left.
    """
    row = await connection.fetchrow(_TO_CLEAR, replay.id)
    if row is None:
        return None
    scope, gone = replay.scope, 0
    after: tuple[Any, ...] = ("", _FIRST_OF_TIME, _NO_ID)
    while True:
        last = await connection.fetchrow(
            _CLEAR,
            row["project_id"],
            *after,
            replay.state == "cancelled",
            replay.id,
            row["since"],
            scope.until,
            list(scope.event_types),
            scope.all_others,
            most,
        )
        if last is None:
            break
        gone += last["gone"]
        after = (last["metric"], last["bucket_start"], last["key"])
    await connection.execute(_CLEARED, replay.id, row["project_id"])
    return gone
