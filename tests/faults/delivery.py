"""Faults of delivery: every message again and in another order, topics made anew, messages nobody can read."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from boost_streams.topics import FAMILIES, RAW_EVENTS, ensure_topics, family_topic, full_name, topic_specs
from tests.faults.poison import UNREADABLE
from tests.faults.rig import Rig

_AGAIN = ("again", b"1")
_GATHER_SECONDS = 0.3


def hop_topics(rig: Rig) -> list[str]:
    """Return the topics that a batch passes through."""
    return [full_name(rig.settings, name) for name in (RAW_EVENTS, *(family_topic(family) for family in FAMILIES))]


@contextlib.asynccontextmanager
async def _producer(rig: Rig) -> AsyncIterator[Any]:
    producer = AIOKafkaProducer(bootstrap_servers=rig.environment["KAFKA_BROKER"], max_request_size=8 << 20)
    await producer.start()
    try:
        yield producer
    finally:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                await producer.stop()


@dataclass(slots=True)
class EverythingTwice:
    """Every message of the topics that a batch passes through comes again: shuffled, on any partition."""

    repeated: int = 0
    _stopping: bool = False
    _task: asyncio.Task[None] | None = None

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Begin; Kafka may come and go meanwhile."""
        self._task = asyncio.create_task(self._run(rig, chance))

    async def stop(self, rig: Rig) -> None:
        """Repeat nothing more."""
        assert self._task is not None
        self._stopping = True
        await asyncio.wait([self._task], timeout=10)
        self._task.cancel()

    async def _run(self, rig: Rig, chance: random.Random) -> None:
        while not self._stopping:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await self._repeat(rig, chance)
            await asyncio.sleep(0.5)

    async def _repeat(self, rig: Rig, chance: random.Random) -> None:
        topics = hop_topics(rig)
        consumer = AIOKafkaConsumer(
            *topics, bootstrap_servers=rig.environment["KAFKA_BROKER"], auto_offset_reset="latest"
        )
        await consumer.start()
        try:
            async with _producer(rig) as producer:
                while not self._stopping:
                    await self._once(consumer, producer, chance)
                    await asyncio.sleep(_GATHER_SECONDS)
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    await consumer.stop()

    async def _once(self, consumer: Any, producer: Any, chance: random.Random) -> None:
        found = await consumer.getmany(timeout_ms=500)
        messages = [m for some in found.values() for m in some if _AGAIN not in m.headers]
        chance.shuffle(messages)
        for message in messages:
            partitions = sorted(await producer.partitions_for(message.topic))
            async with asyncio.timeout(10):
                await producer.send_and_wait(
                    message.topic, message.value, partition=chance.choice(partitions), headers=[_AGAIN]
                )
            self.repeated += 1


@dataclass(slots=True)
class Unreadable:
    """Messages that nobody can read on every topic that a batch passes through."""

    sent: int = 0

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Put one of each kind on each topic."""
        async with _producer(rig) as producer:
            for topic in hop_topics(rig):
                for value in UNREADABLE:
                    async with asyncio.timeout(10):
                        await producer.send_and_wait(topic, value)
                    self.sent += 1

    async def stop(self, rig: Rig) -> None:
        """Do nothing: they stay there."""


@dataclass(slots=True)
class TopicsWiped:
    """Every topic deleted with what is on it and with its offsets, and made anew, empty, under running workers."""

    names: list[str] = field(default_factory=list)

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Delete them."""
        self.names = [spec.name for spec in topic_specs(rig.settings)]
        admin = AIOKafkaAdminClient(bootstrap_servers=rig.environment["KAFKA_BROKER"])
        await admin.start()
        try:
            await admin.delete_topics(self.names)
        finally:
            await admin.close()

    async def stop(self, rig: Rig) -> None:
        """Make them, unless a worker was quicker."""
        await ensure_topics(rig.settings)
