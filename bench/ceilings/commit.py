"""One commit after another, as many a second as asked: how long PostgreSQL takes for what intake asks of it."""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from uuid import UUID

import msgspec
import uvloop

from bench.bodies import new_events
from bench.statistics import percentile
from boost_streams.event_id import new_batch_id
from db.intake import store_batch_across_projects
from db.new_events import NewEvent
from db.pool import Database

_DIFFERENT = 5_000


class Committed(msgspec.Struct):
    """How many commits were made, and how long they took (milliseconds)."""

    commits: int
    p50_ms: float
    p99_ms: float


async def _commit(database: Database, worker_id: UUID, seq: int, events: list[NewEvent]) -> float:
    batch_id = new_batch_id()
    started = time.perf_counter()
    async with database.across_projects() as connection:
        await store_batch_across_projects(
            connection,
            batch_id,
            events,
            worker_id=worker_id,
            seq=seq,
            stuck_after_seconds=300,
        )
    return time.perf_counter() - started


async def _run(options: argparse.Namespace) -> Committed:
    projects = [UUID(text) for text in options.projects.split(",")]
    ready = list(new_events(projects, _DIFFERENT))
    database = Database(options.url, pipeline_connections=1, tenant_connections=1)
    await database.open()
    worker_id = uuid.uuid4()
    times: list[float] = []
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < options.seconds:
        due = started + len(times) / options.per_second
        if due > now:
            await asyncio.sleep(due - now)
        first = len(times) * options.events % (_DIFFERENT - options.events)
        chunk = ready[first : first + options.events]
        if options.message_ids:
            chunk = [msgspec.structs.replace(event, message_id=f"{uuid.uuid4()}") for event in chunk]
        times.append(await _commit(database, worker_id, len(times), chunk))
    await database.close()
    return Committed(len(times), percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3)


def main() -> None:
    """Commit for so many seconds and print a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--projects", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--events", type=int, required=True, help="events in one commit")
    parser.add_argument("--per-second", type=float, required=True, help="commits per second")
    parser.add_argument("--message-ids", action="store_true", help="events carry a messageId")
    print(msgspec.json.encode(uvloop.run(_run(parser.parse_args()))).decode())


if __name__ == "__main__":
    main()
