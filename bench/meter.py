"""What a stretch of work cost: CPU seconds by part, WAL, bytes on topics and in tables, each per event."""

from __future__ import annotations

from dataclasses import dataclass

from bench.database import Question, ask
from bench.deployment import Deployment
from bench.processes import cpu_seconds, folder_bytes, tree_cpu_seconds

_MICRO = 1e6
#: What a reading is called in rounds, and in words.
COST_LABELS = {
    "worker_us": "CPU of the workers, µs per event",
    "postgres_us": "CPU of PostgreSQL, µs per event",
    "kafka_us": "CPU of the Kafka broker, µs per event",
    "wal_bytes": "WAL, bytes per event",
    "topic_bytes": "topics, bytes per event",
    "heap_bytes": "table `events`, bytes per event",
    "index_bytes": "its indexes, bytes per event",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of a deployment at one moment."""

    accepted: int
    worker: float
    postgres: float
    kafka: float
    lsn: str
    topics: int
    heap: int
    index: int


def read(deployment: Deployment) -> Reading:
    """Read the counters."""
    site = deployment.site
    with ask(deployment.url) as question:
        heap, index = question.event_table_bytes()
        return Reading(
            accepted=deployment.accepted(),
            worker=cpu_seconds(deployment.pids),
            postgres=tree_cpu_seconds(site.postgres.pid),
            kafka=cpu_seconds([site.kafka.pid]),
            lsn=question.wal(),
            topics=folder_bytes(site.topics_folder, deployment.prefix),
            heap=heap,
            index=index,
        )


def cost_since(deployment: Deployment, before: Reading) -> dict[str, float]:
    """Return what an accepted event has cost since a reading; empty when none was accepted."""
    after = read(deployment)
    events = after.accepted - before.accepted
    if not events:
        return {}
    with ask(deployment.url) as question:
        wal = _wal_bytes(question, before, after)
    return {
        "worker_us": (after.worker - before.worker) / events * _MICRO,
        "postgres_us": (after.postgres - before.postgres) / events * _MICRO,
        "kafka_us": (after.kafka - before.kafka) / events * _MICRO,
        "wal_bytes": wal / events,
        "topic_bytes": (after.topics - before.topics) / events,
        "heap_bytes": (after.heap - before.heap) / events,
        "index_bytes": (after.index - before.index) / events,
    }


def _wal_bytes(question: Question, before: Reading, after: Reading) -> int:
    return question.wal_bytes_since(before.lsn) - question.wal_bytes_since(after.lsn)
