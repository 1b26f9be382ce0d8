"""The parts of a drain alone, one after the other: bare aiokafka reads the messages, then the statements settle.

Nothing is decoded, dispatched, handled or acknowledged while the clock runs: what handlers would say is known before.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from agents.effects import Settled
from agents.handlers import load_registry
from agents.handling import MOST_EVENTS
from agents.settlement import first_attempts_of
from boost_streams.events import Event
from boost_streams.topics import FAMILIES, RAW_EVENTS, family_topic
from db.batches import record_of_row
from db.pool import Database, prepare_connection
from db.settlement import FirstAttempts, settle_across_projects

_PENDING = """
SELECT id, project_id, event_type, occurred_at, received_at, payload, user_id, anonymous_id, session_id, message_id,
       attempt
FROM events WHERE status = 'pending' ORDER BY id
"""
_FETCH_BYTES = 8 * 1024 * 1024
_MOST_READ_SECONDS = 120.0


class Drained(msgspec.Struct):
    """How many events were settled, and the seconds of reading and of settling them; messages and bytes read."""

    events: int
    read_seconds: float
    settle_seconds: float
    messages: int
    read_bytes: int


async def _read_topics(bootstrap: str, prefix: str) -> tuple[int, int, float]:
    """Read every message of `raw-events` and of the families' topics, from the first to the last that is there."""
    names = [f"{prefix}{name}" for name in (RAW_EVENTS, *map(family_topic, FAMILIES))]
    consumer = AIOKafkaConsumer(
        *names,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        fetch_max_bytes=8 * _FETCH_BYTES,
    )
    await consumer.start()
    try:
        messages = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
        left, size = messages, 0
        started = time.perf_counter()
        deadline = started + _MOST_READ_SECONDS
        while left > 0:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{left} of {messages} messages were not read")
            for found in (await consumer.getmany(timeout_ms=500)).values():
                left -= len(found)
                size += sum(len(message.value) for message in found)
        return messages, size, time.perf_counter() - started
    finally:
        await consumer.stop()


async def _work_of(url: str) -> dict[str, list[FirstAttempts]]:
    """Ask the handlers about every pending event; return the settlements of each family."""
    connection = await asyncpg.connect(url)
    await prepare_connection(connection)
    registry = load_registry()
    by_family: dict[str, list[Settled]] = defaultdict(list)
    for row in await connection.fetch(_PENDING):
        event = Event.of_record(record_of_row(row))
        handler = registry.handler_of(event.event_type)
        by_family[handler.family].append(Settled(event, handler.handle(event)))
    await connection.close()
    return {family: [_prepare(chunk) for chunk in _chunks(settled)] for family, settled in by_family.items()}


def _chunks(settled: Sequence[Settled]) -> list[Sequence[Settled]]:
    return [settled[start : start + MOST_EVENTS] for start in range(0, len(settled), MOST_EVENTS)]


def _prepare(chunk: Sequence[Settled]) -> FirstAttempts:
    done = first_attempts_of(chunk, load_registry())
    assert done is not None, "events that nobody settled yet"
    return done


async def _settle(database: Database, works: Sequence[FirstAttempts]) -> int:
    moved = 0
    for work in works:
        async with database.across_projects() as connection:
            if await settle_across_projects(connection, work):
                moved += sum(map(len, work.ids_of_projects.values()))
    return moved


async def _run(options: argparse.Namespace) -> Drained:
    messages, size, read_seconds = await _read_topics(options.bootstrap, options.prefix)
    families = await _work_of(options.url)
    database = Database(options.url)
    await database.open()
    started = time.perf_counter()
    moved = await asyncio.gather(*(_settle(database, works) for works in families.values()))
    settle_seconds = time.perf_counter() - started
    await database.close()
    return Drained(sum(moved), read_seconds, settle_seconds, messages, size)


def main() -> None:
    """Read and settle, and print a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    print(msgspec.json.encode(uvloop.run(_run(parser.parse_args()))).decode())


if __name__ == "__main__":
    main()
