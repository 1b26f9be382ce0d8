"""Measures how far the consumer group is behind, per topic and partition, with a consumer that joins nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from boost_streams.errors import BrokerAway
from boost_streams.kafka_client import client_options
from boost_streams.settings import Settings
from boost_streams.topics import FAMILIES, RAW_EVENTS, SETTLED, family_topic, full_name, group_id, topic_specs

#: How long the whole measurement, and the reading of waiting messages in it, may take (seconds).
MEASURE_SECONDS = 30.0
READ_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition: where it ends, and how far the group that reads it is.

    `committed` is None where the group has committed nothing yet; `lag` (messages) is None where no group
    reads the topic; `seconds` is the age of the oldest message not committed, None where that cannot be told.
    """

    topic: str
    partition: int
    end: int
    group: str | None
    committed: int | None
    lag: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Lags:
    """What was measured: every partition of the topics that exist, and the names of those that do not."""

    partitions: list[PartitionLag]
    missing: list[str]


async def measure_lags(settings: Settings, clock: Callable[[], float] = time.time) -> Lags:
    """Measure every topic of the installation. `clock` gives Unix time (seconds).

    Raises:
        BrokerAway: No broker answers in time.
    """
    try:
        async with asyncio.timeout(MEASURE_SECONDS):
            return await _measure(settings, clock)
    except (KafkaError, OSError, TimeoutError) as error:
        brokers = ", ".join(settings.brokers)
        raise BrokerAway(f"Kafka at {brokers} does not answer: {str(error) or type(error).__name__}") from error


async def partitions_by_topic(settings: Settings) -> dict[str, list[int]]:
    """Return the partitions of every topic that the broker has, making none."""
    client = AIOKafkaClient(**client_options(settings))
    try:
        await client.bootstrap()
        cluster = await client.fetch_all_metadata()
        return {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in cluster.topics()}
    finally:
        await client.close()


async def _measure(settings: Settings, clock: Callable[[], float]) -> Lags:
    existing = await partitions_by_topic(settings)
    names = [spec.name for spec in topic_specs(settings)]
    missing = [name for name in names if name not in existing]
    if len(missing) == len(names):
        return Lags([], missing)
    group = group_id(settings)
    consumer = AIOKafkaConsumer(**client_options(settings), group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(name, number) for name in names for number in existing.get(name, [])]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        starts = await consumer.beginning_offsets(places)
        read = _topics_read(settings)
        asked = [place for place in places if place.topic in read]
        answers = await asyncio.gather(*(consumer.committed(place) for place in asked))
        committed: dict[TopicPartition, int | None] = dict(zip(asked, answers, strict=True))
        # Retention may have taken what was not committed.
        nexts = {place: max(committed[place] or 0, starts[place]) for place in asked}
        waiting = [place for place in asked if nexts[place] < ends[place]]
        sent_at = await _times_of_next(consumer, {place: nexts[place] for place in waiting})
    finally:
        await consumer.stop()
    now = clock()
    partitions = [
        PartitionLag(
            topic=place.topic,
            partition=place.partition,
            end=ends[place],
            group=group if place in nexts else None,
            committed=committed.get(place),
            lag=max(0, ends[place] - nexts[place]) if place in nexts else None,
            seconds=_age(place, now, nexts, waiting, sent_at),
        )
        for place in places
    ]
    return Lags(partitions, missing)


def _topics_read(settings: Settings) -> frozenset[str]:
    """Return the topics that the group commits offsets of; the changelog is read, but never committed."""
    names = (RAW_EVENTS, SETTLED, *(family_topic(family) for family in FAMILIES))
    return frozenset(full_name(settings, name) for name in names)


async def _times_of_next(consumer: AIOKafkaConsumer, nexts: dict[TopicPartition, int]) -> dict[TopicPartition, float]:
    """Read the first message not committed of each partition; return when it was sent (Unix seconds)."""
    times: dict[TopicPartition, float] = {}
    deadline = time.monotonic() + READ_SECONDS
    while len(times) < len(nexts) and time.monotonic() < deadline:
        missing = [place for place in nexts if place not in times]
        consumer.assign(missing)
        for place in missing:
            consumer.seek(place, nexts[place])
        for place, messages in (await consumer.getmany(timeout_ms=500)).items():
            if messages:
                times[place] = messages[0].timestamp / 1000
    return times


def _age(
    place: TopicPartition,
    now: float,
    nexts: dict[TopicPartition, int],
    waiting: Iterable[TopicPartition],
    sent_at: dict[TopicPartition, float],
) -> float | None:
    if place not in nexts:
        return None
    if place not in waiting:
        return 0.0
    return max(0.0, now - sent_at[place]) if place in sent_at else None
