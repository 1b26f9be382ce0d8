"""Workers' heartbeats, consumers' progress, and the batches that a dead worker left unpublished."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from db.pool import Connection

#: A worker whose heartbeat is older than this is dead (seconds, by the database's clock).
DEAD_AFTER_SECONDS = 8.0

_HEARTBEAT = """
INSERT INTO workers AS w (id, host, url, roles, published_seq, handlers) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), published_seq = excluded.published_seq
"""
_BURY = """
DELETE FROM workers WHERE id IN (
    SELECT id FROM workers WHERE heartbeat_at < now() - make_interval(secs => $1) ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id, published_seq
"""
_RELEASE_BATCHES_OF_WORKER = """
WITH orphans AS (
    SELECT id FROM event_batches WHERE worker_id = $1 AND seq > $2 ORDER BY id FOR UPDATE)
UPDATE event_batches b SET last_published_at = NULL, due_at = now(), suspect = b.suspect OR $3
FROM orphans o WHERE b.id = o.id
"""
_RELEASE_RETRIES_OF_WORKER = """
WITH orphans AS (
    SELECT project_id, event_id FROM event_retries WHERE worker_id = $1 AND seq > $2
    ORDER BY project_id, event_id FOR UPDATE)
UPDATE event_retries r SET last_published_at = NULL, due_at = now(), suspect = r.suspect OR $3 FROM orphans o
WHERE r.project_id = o.project_id AND r.event_id = o.event_id
"""
_WITH_AGENTS = """
SELECT url FROM workers WHERE 'agents' = ANY(roles) AND heartbeat_at > now() - make_interval(secs => $1)
ORDER BY heartbeat_at DESC LIMIT 1
"""
_FORGET = "DELETE FROM workers WHERE id = $1"

_RECORD_PROGRESS = """
INSERT INTO consumer_progress AS p (topic, partition, worker_id, passed_at, caught_up)
SELECT t.topic, t.partition, $1, CASE WHEN t.caught_up THEN now() ELSE t.passed_at END, t.caught_up
FROM unnest($2::text[], $3::int[], $4::timestamptz[], $5::boolean[]) AS t (topic, partition, passed_at, caught_up)
ORDER BY t.topic, t.partition
ON CONFLICT (topic, partition) DO UPDATE SET
    worker_id = excluded.worker_id, passed_at = excluded.passed_at, caught_up = excluded.caught_up, recorded_at = now()
"""
_PROGRESS = "SELECT topic, partition, passed_at, caught_up, recorded_at FROM consumer_progress"
_NOW = "SELECT now()"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the consumer of one partition is: everything published before `passed_at` has been dealt with."""

    topic: str
    partition: int
    passed_at: dt.datetime
    caught_up: bool
    recorded_at: dt.datetime


async def heartbeat_across_projects(
    connection: Connection,
    worker_id: UUID,
    host: str,
    url: str,
    roles: Sequence[str],
    published_seq: int,
    handlers: Mapping[str, int] | None = None,
) -> None:
    """Say that a worker is alive, and its handlers' versions; publishes up to `published_seq` are accounted for."""
    versions = msgspec.json.encode(handlers or {})
    await connection.execute(_HEARTBEAT, worker_id, host, url, list(roles), published_seq, versions)


async def worker_with_agents_across_projects(connection: Connection) -> str | None:
    """Return the URL of a living worker that runs agents, if there is one."""
    url: str | None = await connection.fetchval(_WITH_AGENTS, DEAD_AFTER_SECONDS)
    return url


async def bury_dead_workers_across_projects(connection: Connection) -> dict[UUID, int]:
    """Remove workers whose heartbeat stopped and release what they left unpublished, marked as suspect.

    What a worker was not known to have published may have been handled by itself, and be what it died of.

    Returns:
        The number of batches and retries released, by worker.
    """
    released = {}
    async with connection.transaction():
        for row in await connection.fetch(_BURY, DEAD_AFTER_SECONDS):
            tags = [
                await connection.execute(statement, row["id"], row["published_seq"], True)
                for statement in (_RELEASE_BATCHES_OF_WORKER, _RELEASE_RETRIES_OF_WORKER)
            ]
            released[row["id"]] = sum(int(tag.rpartition(" ")[2]) for tag in tags)
    return released


async def leave_across_projects(connection: Connection, worker_id: UUID, published_seq: int) -> None:
    """Take a worker that stops off the list, releasing what it could not account for."""
    async with connection.transaction():
        await connection.execute(_FORGET, worker_id)
        await connection.execute(_RELEASE_BATCHES_OF_WORKER, worker_id, published_seq, False)
        await connection.execute(_RELEASE_RETRIES_OF_WORKER, worker_id, published_seq, False)


async def record_progress_across_projects(
    connection: Connection,
    worker_id: UUID,
    positions: Sequence[tuple[str, int, dt.datetime | None]],
) -> None:
    """Record how far this worker's consumer is on each partition assigned to it.

    Args:
        connection: A pipeline connection.
        worker_id: Whose consumer it is.
        positions: Topic, partition, and the publish time of the oldest unacknowledged message, or None for
            "caught up".
    """
    epoch = dt.datetime.fromtimestamp(0, dt.UTC)
    await connection.execute(
        _RECORD_PROGRESS,
        worker_id,
        [topic for topic, _, _ in positions],
        [partition for _, partition, _ in positions],
        [passed or epoch for _, _, passed in positions],
        [passed is None for _, _, passed in positions],
    )


async def progress_across_projects(connection: Connection) -> tuple[dt.datetime, list[Progress]]:
    """Return the database's time and the last known progress of every partition."""
    now: dt.datetime = await connection.fetchval(_NOW)
    return now, [Progress(**dict(row)) for row in await connection.fetch(_PROGRESS)]
