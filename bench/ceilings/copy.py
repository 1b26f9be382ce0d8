"""COPY of events into `events` and nothing else: what PostgreSQL takes from asyncpg."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
import time
from collections.abc import Iterator
from uuid import UUID

import asyncpg
import msgspec
import uvloop

from bench.bodies import new_events
from boost_streams.event_id import event_ids, new_batch_id
from db.new_events import NewEvent
from db.pool import prepare_connection
from web.waiting import MOST_EVENTS_OF_MANY

#: The most events of one commit of ours, and so of one COPY.
ROWS_PER_COPY = MOST_EVENTS_OF_MANY
_COLUMNS = (
    "id",
    "project_id",
    "event_type",
    "user_id",
    "anonymous_id",
    "session_id",
    "message_id",
    "payload",
    "occurred_at",
)


class Copied(msgspec.Struct):
    """How many rows were copied, and in how many seconds."""

    rows: int
    seconds: float


def _values(event: NewEvent) -> tuple[object, ...]:
    return (
        event.project_id,
        event.event_type,
        event.user_id,
        event.anonymous_id,
        event.session_id,
        event.message_id,
        event.payload,
    )


def _prepared(projects: list[UUID], message_ids: bool) -> list[tuple[object, ...]]:
    prefix = f"{new_batch_id()}"[:24] if message_ids else None
    return [_values(event) for event in new_events(projects, 20_000, message_prefix=prefix)]


def _records(rows: list[tuple[object, ...]], offset: int) -> Iterator[tuple[object, ...]]:
    when = dt.datetime.now(dt.UTC)
    for number, event_id in enumerate(event_ids(new_batch_id(), ROWS_PER_COPY)):
        yield (event_id, *rows[(offset + number) % len(rows)], when)


async def _copy(url: str, rows: list[tuple[object, ...]], until: float, most: int) -> int:
    """Copy on one connection until the time is over or `most` rows are in."""
    connection = await asyncpg.connect(url)
    await prepare_connection(connection)
    copied = 0
    try:
        while time.perf_counter() < until and copied < most:
            await connection.copy_records_to_table("events", records=_records(rows, copied), columns=_COLUMNS)
            copied += ROWS_PER_COPY
    finally:
        await connection.close()
    return copied


async def _run(options: argparse.Namespace) -> Copied:
    rows = _prepared([UUID(text) for text in options.projects.split(",")], options.message_ids)
    started = time.perf_counter()
    until = started + options.seconds
    most = options.rows // options.connections if options.rows else sys.maxsize
    done = await asyncio.gather(*(_copy(options.url, rows, until, most) for _ in range(options.connections)))
    return Copied(sum(done), time.perf_counter() - started)


def main() -> None:
    """Copy for so many seconds, or so many rows, and print a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--projects", required=True)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--message-ids", action="store_true")
    copied = uvloop.run(_run(parser.parse_args()))
    print(msgspec.json.encode(copied).decode())


if __name__ == "__main__":
    main()
