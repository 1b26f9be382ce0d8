"""Puts events where they would be after their commit, without HTTP: in the database, and on `raw-events`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from itertools import islice
from uuid import UUID

from aiokafka import AIOKafkaProducer

from bench.bodies import new_events
from boost_streams.event_id import new_batch_id
from boost_streams.records import RawEventBatch, RecordCodec
from boost_streams.topics import RAW_EVENTS
from db.batches import record_of_row
from db.intake import store_batch_across_projects
from db.pool import Database

#: How many commits are under way at once.
_COMMITS = 4
_BIGGEST_MESSAGE = 4 * 1024 * 1024
_EVENTS_OF_BATCH = """
SELECT id, project_id, event_type, occurred_at, received_at, payload, user_id, anonymous_id, session_id, message_id,
       attempt
FROM events WHERE id BETWEEN $1 AND $2 ORDER BY id
"""


async def store_events(
    url: str,
    projects: Sequence[UUID],
    count: int,
    per_batch: int,
    *,
    message_ids: bool = False,
    stuck_after_seconds: float = 300.0,
) -> list[UUID]:
    """Store `count` pending events in batches of `per_batch`, as intake would; return the ids of the batches."""
    database = Database(url, pipeline_connections=_COMMITS, tenant_connections=1)
    await database.open()
    prefix = f"{uuid.uuid4()}"[:24] if message_ids else None
    events = new_events(list(projects), count, message_prefix=prefix)
    worker_id = uuid.uuid4()
    batch_ids: list[UUID] = []

    async def commit_all() -> None:
        while chunk := list(islice(events, per_batch)):
            batch_id = new_batch_id()
            batch_ids.append(batch_id)
            async with database.across_projects() as connection:
                await store_batch_across_projects(
                    connection,
                    batch_id,
                    chunk,
                    worker_id=worker_id,
                    seq=len(batch_ids),
                    stuck_after_seconds=stuck_after_seconds,
                )

    try:
        await asyncio.gather(*(commit_all() for _ in range(_COMMITS)))
    finally:
        await database.close()
    return sorted(batch_ids)


async def publish_batches(url: str, bootstrap: str, prefix: str, batch_ids: Sequence[UUID]) -> None:
    """Send the batches to `raw-events`, one message each, as the outbox would."""
    database = Database(url, pipeline_connections=1, tenant_connections=1)
    await database.open()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=_BIGGEST_MESSAGE)
    await producer.start()
    codec = RecordCodec(RawEventBatch)
    try:
        sent = []
        async with database.across_projects() as connection:
            for batch_id in batch_ids:
                batch = await read_batch(connection, batch_id)
                sent.append(await producer.send(f"{prefix}{RAW_EVENTS}", codec.encode(batch)))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
        await database.close()


async def read_batch(connection: object, batch_id: UUID) -> RawEventBatch:
    """Read the message of a batch from the database."""
    rows = await connection.fetch(_EVENTS_OF_BATCH, batch_id, UUID(int=batch_id.int | 0xFFFF))  # type: ignore[attr-defined]
    records = [record_of_row(row) for row in rows]
    committed_at = records[0].received_at
    return RawEventBatch(batch_id, committed_at, committed_at, records)
