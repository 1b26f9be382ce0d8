"""What is handed to librdkafka when: at once by a worker with time to spare, together by a busy one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from boost_streams import producer
from boost_streams.errors import BrokerAway, MessageTooLarge
from boost_streams.producer import RecordProducer
from boost_streams.settings import load_settings
from tests.support.waiting import eventually

APART = 0.1


class _Client:
    """Takes messages as librdkafka's client does, and delivers each when it is polled."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.taken: list[bytes] = []
        self.refusal: Exception | None = None
        self.polls = 0
        self._undelivered: list[Callable[[Any, Any], None]] = []

    def produce(self, topic: str, value: bytes, key: bytes | None, *, on_delivery: Callable[[Any, Any], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.taken.append(value)
        self._undelivered.append(on_delivery)

    def poll(self, _: float) -> None:
        self.polls += 1
        undelivered, self._undelivered = self._undelivered, []
        for delivered in undelivered:
            delivered(None, None)


@pytest.fixture
async def records(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RecordProducer]:
    monkeypatch.setattr(producer, "Producer", _Client)
    records = RecordProducer(load_settings({}))
    await records.start()
    yield records
    await records.stop()


def client_of(records: RecordProducer) -> _Client:
    client: Any = records._producer
    assert isinstance(client, _Client)
    return client


async def test_a_worker_with_time_to_spare_sends_at_once(records: RecordProducer) -> None:
    for value in (b"1", b"2", b"3"):
        records.send("raw", value)
    assert client_of(records).taken == [b"1", b"2", b"3"]


async def test_a_busy_worker_sends_together_what_came_within_its_time(records: RecordProducer) -> None:
    client = client_of(records)
    records.between_sends = lambda: APART
    sent = [records.send("raw", value) for value in (b"1", b"2", b"3")]
    assert client.taken == [b"1"]
    await eventually(lambda: len(client.taken) > 1)
    assert client.taken == [b"1", b"2", b"3"]
    async with asyncio.timeout(5):
        await asyncio.gather(*sent)


async def test_what_is_held_goes_in_order_before_what_comes_once_there_is_time(records: RecordProducer) -> None:
    client = client_of(records)
    records.between_sends = lambda: APART
    for value in (b"1", b"2"):
        records.send("raw", value)
    records.between_sends = lambda: 0.0
    records.send("raw", b"3")
    assert client.taken == [b"1"]
    await eventually(lambda: client.taken == [b"1", b"2", b"3"])
    records.send("raw", b"4")
    assert client.taken[-1] == b"4"


async def test_nothing_is_polled_for_while_everything_is_held(records: RecordProducer) -> None:
    client = client_of(records)
    records.between_sends = lambda: 60.0
    first = records.send("raw", b"1")
    records.send("raw", b"2")
    await first
    before = client.polls
    await asyncio.sleep(20 * producer.POLL_SECONDS)
    assert client.polls == before
    records._hand_over_held()  # or the stop waits for it
    await eventually(lambda: client.polls > before)


async def test_the_stop_waits_for_what_is_held(records: RecordProducer) -> None:
    client = client_of(records)
    records.between_sends = lambda: APART
    last = [records.send("raw", value) for value in (b"1", b"2")][-1]
    await records.stop()
    assert client.taken == [b"1", b"2"]
    assert last.done()


@pytest.mark.parametrize(
    ("refusal", "named"),
    [
        (BufferError("the queue is full"), BrokerAway),
        (KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)), BrokerAway),
        (KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), MessageTooLarge),
    ],
)
@pytest.mark.parametrize("apart", [0.0, APART])
async def test_what_is_refused_is_told_to_who_sent_it(
    records: RecordProducer, refusal: Exception, named: type[Exception], apart: float
) -> None:
    client = client_of(records)
    records.between_sends = lambda: apart
    records.send("raw", b"1")
    client.refusal = refusal
    refused = records.send("raw", b"2")
    with pytest.raises(named):
        async with asyncio.timeout(5):
            await refused
    client.refusal = None
    async with asyncio.timeout(5):
        await records.send("raw", b"3")
    assert client.taken == [b"1", b"3"]
