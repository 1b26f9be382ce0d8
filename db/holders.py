"""Who handles which partition: how a worker that takes one over learns that the one before died with it in hand."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from db.pool import Connection

#: A worker whose heartbeat is older than this did not merely hand a partition over (seconds, by the database's clock).
#: It is shorter than Kafka takes to notice a death, and than `db.workers.DEAD_AFTER_SECONDS`: a worker wrongly taken
#: for dead costs a little speed, one wrongly taken for alive costs another worker its life.
SILENT_SECONDS = 4.0

_TAKE_OVER = """
INSERT INTO partition_holders AS h (topic, partition, worker_id)
SELECT t.topic, t.partition, $1 FROM unnest($2::text[], $3::int[]) AS t (topic, partition)
ORDER BY t.topic, t.partition
ON CONFLICT (topic, partition) DO UPDATE SET
    suspect = h.suspect OR (h.worker_id <> excluded.worker_id AND NOT EXISTS (
        SELECT FROM workers w WHERE w.id = h.worker_id AND w.heartbeat_at > now() - make_interval(secs => $4))),
    worker_id = excluded.worker_id, taken_at = now()
RETURNING topic, partition, suspect
"""
_CLEAR = "UPDATE partition_holders SET suspect = false WHERE topic = $1 AND partition = $2 AND worker_id = $3"
_LET_GO = "DELETE FROM partition_holders WHERE worker_id = $1 AND NOT suspect"

Partition = tuple[str, int]


async def take_over_across_projects(
    connection: Connection, worker_id: UUID, partitions: Collection[Partition]
) -> set[Partition]:
    """Note that a worker handles these partitions from now on; return those that somebody died with in hand."""
    ordered = sorted(partitions)
    rows = await connection.fetch(
        _TAKE_OVER,
        worker_id,
        [topic for topic, _ in ordered],
        [number for _, number in ordered],
        SILENT_SECONDS,
    )
    return {(row["topic"], row["partition"]) for row in rows if row["suspect"]}


async def clear_suspicion_across_projects(connection: Connection, worker_id: UUID, partition: Partition) -> None:
    """Say that what a dead worker had in hand of a partition is dealt with."""
    await connection.execute(_CLEAR, *partition, worker_id)


async def let_go_across_projects(connection: Connection, worker_id: UUID) -> None:
    """Say that a worker stops with nothing in hand."""
    await connection.execute(_LET_GO, worker_id)
