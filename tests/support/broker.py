"""A broker inside the test's process, and a publisher that sends to it without a Faust app."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.publishing import BrokerState, Publisher
from boost_streams.records import RawEventBatch, RecordCodec

_codec = RecordCodec(RawEventBatch)


class ProducerTopic:
    """One topic of a producer, with the call that `Publisher` makes."""

    def __init__(self, producer: AIOKafkaProducer, name: str) -> None:
        self._producer = producer
        self.name = name

    async def send(self, *, key: bytes | None, value: msgspec.Struct) -> Any:
        """Hand a record to the producer; the answer is to be awaited for its delivery."""
        return await self._producer.send(self.name, msgspec.json.encode(value), key=key)


class TestBroker:
    """A broker with one topic: publishers for it, and what has been sent."""

    __test__ = False

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self._producers: list[AIOKafkaProducer] = []

    async def publisher(self) -> Publisher:
        """Return a publisher of its own, as another worker would have it."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
        await producer.start()
        self._producers.append(producer)
        state = BrokerState((self.bootstrap,))
        state.ready = True
        state.taken()
        return Publisher(ProducerTopic(producer, self.topic), state)

    async def batches(self) -> list[RawEventBatch]:
        """Read every batch that is on the topic."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            numbers = consumer.partitions_for_topic(self.topic) or await _partitions(consumer, self.topic)
            partitions = [TopicPartition(self.topic, number) for number in numbers]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found: list[RawEventBatch] = []
            while len(found) < sum(ends.values()):
                for messages in (await consumer.getmany(timeout_ms=1000)).values():
                    found.extend(_codec.decode(message.value) for message in messages)
            return found
        finally:
            await consumer.stop()

    async def close(self) -> None:
        """Stop the producers."""
        await asyncio.gather(*(producer.stop() for producer in self._producers), return_exceptions=True)


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer._client.add_topic(topic)
    return consumer.partitions_for_topic(topic) or set()


@contextlib.asynccontextmanager
async def topic_on_kafka(bootstrap: str) -> AsyncIterator[TestBroker]:
    """Make a topic of its own on a real Kafka."""
    topic = f"t{uuid.uuid4().hex[:8]}-raw-events"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 4, 1)])
    finally:
        await admin.close()
    broker = TestBroker(bootstrap, topic)
    try:
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def running_broker(topic: str = "raw-events") -> AsyncIterator[TestBroker]:
    """Run a broker in this process."""
    server = EmbeddedBroker()
    await asyncio.to_thread(server.start)
    broker = TestBroker(server.bootstrap, topic)
    try:
        yield broker
    finally:
        await broker.close()
        server.stop()
