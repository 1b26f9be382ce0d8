"""A sweeper outside a worker, as the large-table rows time it.

A sweep first waits for reports of consumers, which come once a second; what is timed is what it asks of the database
and of the broker after that. So one sweeper is told that consumers have passed everything. The other asks itself, and
finds consumers behind a backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.sweeper import Hops, Sweeper
from boost_streams.ledger import Ledger
from boost_streams.publishing import BrokerState, Publisher
from db.pool import Database
from db.workers import record_progress_across_projects

_TOPIC = "bench-sweep"
_FAMILY_TOPIC = "bench-sweep-family"
_REPORT_SECONDS = 0.2
_BATCH_SIZE = 100
_BACKLOG = dt.timedelta(hours=1)


class _ProducerTopic:
    """One topic of a producer, with the call that `Publisher` makes."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(self, *, key: bytes | None, value: msgspec.Struct) -> Any:
        """Hand a record to the producer; the answer is to be awaited for its delivery."""
        return await self._producer.send(_TOPIC, msgspec.json.encode(value), key=key)


class _ConsumersPassedEverything(Sweeper):
    async def passed_at(self) -> dt.datetime | None:
        """Answer at once that consumers have passed everything so far."""
        return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class SweepTarget:
    """Two sweepers of one database: `all_passed` is told that consumers are done, `behind` asks for their reports."""

    all_passed: Sweeper
    behind: Sweeper
    database: Database
    worker_id: UUID

    @contextlib.asynccontextmanager
    async def consumers_behind(self) -> AsyncIterator[None]:
        """Report, as workers do, that the oldest message not dealt with was published an hour ago."""
        reporting = asyncio.create_task(self._report())
        await asyncio.sleep(2 * _REPORT_SECONDS)
        try:
            yield
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _report(self) -> None:
        oldest = dt.datetime.now(dt.UTC) - _BACKLOG
        while True:
            async with self.database.across_projects() as connection:
                positions = [(topic, 0, oldest) for topic in (_TOPIC, _FAMILY_TOPIC)]
                await record_progress_across_projects(connection, self.worker_id, positions)
            await asyncio.sleep(_REPORT_SECONDS)


@contextlib.asynccontextmanager
async def sweeping(database: Database, bootstrap: str) -> AsyncIterator[SweepTarget]:
    """Lend sweepers that publish to a topic of their own."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(_TOPIC, 1, 1)])
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    state = BrokerState((bootstrap,))
    state.ready = True
    state.taken()
    publisher = Publisher(_ProducerTopic(producer), state)
    worker_id = uuid.uuid4()

    def make(kind: type[Sweeper]) -> Sweeper:
        ledger = Ledger(worker_id, "bench", "http://127.0.0.1", ("sweeper",))
        hops = Hops(_TOPIC, (_FAMILY_TOPIC,), 1)
        return kind(database, publisher, ledger, hops, stuck_after_seconds=300, batch_size=_BATCH_SIZE)

    try:
        yield SweepTarget(make(_ConsumersPassedEverything), make(Sweeper), database, worker_id)
    finally:
        await producer.stop()
        await admin.delete_topics([_TOPIC])
        await admin.close()
