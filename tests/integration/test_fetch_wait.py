"""A consumer that runs asks the broker to wait as long as the pace says: what aiokafka fixes when it is made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaConsumer

from boost_streams.transport import FetchingThread
from tests.support.broker import running_broker
from tests.support.waiting import eventually


async def test_fetches_wait_at_the_broker_as_long_as_was_said_last() -> None:
    async with running_broker() as broker:
        await broker.publisher()
        consumer = AIOKafkaConsumer(broker.topic, bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=15)
        await consumer.start()
        try:
            send, waits = consumer._client.send, list[int]()

            async def noting(node: Any, request: Any, **options: Any) -> Any:
                if hasattr(request, "_max_wait_ms"):
                    waits.append(request._max_wait_ms)
                return await send(node, request, **options)

            consumer._client.send = noting
            thread: Any = SimpleNamespace(_consumer=consumer)
            for milliseconds in (8, 30):
                FetchingThread.let_fetches_wait(thread, milliseconds)
                await eventually(lambda: waits[-1:] == [milliseconds], deadline=5)  # noqa: B023 - called at once
        finally:
            await consumer.stop()


async def test_a_consumer_that_has_not_started_is_let_alone() -> None:
    for consumer in (None, AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1")):
        thread: Any = SimpleNamespace(_consumer=consumer)
        FetchingThread.let_fetches_wait(thread, 8)
