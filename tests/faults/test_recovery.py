"""Recovery is quick: what was accepted while Kafka was away, and what a killed worker left, is soon on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from boost_streams.embedded.kafka import LocalKafka
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.servers import running_kafka
from tests.support.traffic import events
from tests.support.waiting import eventually
from tests.support.workers import Client, WorkerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures whether or not pytest captures what tests print."""

    def printed(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return printed


@pytest.fixture
def environment(kafka: LocalKafka, database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": kafka.bootstrap,
        "REDIS_URL": redis_url,
        "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
        "LOG_FORMAT": "json",
    }


@pytest.fixture
def own_kafka() -> Iterator[LocalKafka]:
    with running_kafka() as server:
        yield server


async def test_1_000_events_while_kafka_is_stopped(
    database: Database,
    project: TestProject,
    environment: dict[str, str],
    own_kafka: LocalKafka,
    say: Callable[[str], None],
) -> None:
    worker = WorkerProcess({**environment, "KAFKA_BROKER": own_kafka.bootstrap})
    client = Client([worker], project.key)
    try:
        worker.start()
        await worker.ready()
        await client.send({"eventType": "before", "payload": {}})
        await asyncio.to_thread(own_kafka.kill)
        started = time.monotonic()
        for batch in range(20):
            await asyncio.gather(*(client.send(event) for event in events(batch, 50)))
        answered = time.monotonic() - started
        assert client.statuses == {202: 1001}
        await asyncio.to_thread(own_kafka.start)
        back = time.monotonic()

        async def settled() -> bool:
            return await oracle.unsettled(database) == 0

        await eventually(settled, deadline=60, what="everything settled")
        say(
            f"1000 events answered in {answered:.1f} s without a broker (slowest {client.slowest:.2f} s); "
            f"settled {time.monotonic() - back:.1f} s after its return"
        )
        await oracle.check(database, client.accepted)
    finally:
        await client.close()
        worker.stop()


async def test_a_killed_workers_unpublished_batches_go_out_within_15_seconds(
    database: Database,
    project: TestProject,
    environment: dict[str, str],
    own_kafka: LocalKafka,
    say: Callable[[str], None],
) -> None:
    """The worker that took them is killed while the broker is away; another publishes them when it is back."""
    settings = {**environment, "KAFKA_BROKER": own_kafka.bootstrap}
    first, second = WorkerProcess(settings), WorkerProcess(settings)
    client = Client([first], project.key)
    try:
        first.start()
        second.start()
        await first.ready()
        await second.ready()
        await asyncio.to_thread(own_kafka.kill)
        await asyncio.gather(*(client.send(event) for event in events(1, 100)))
        first.kill()
        await asyncio.to_thread(own_kafka.start)
        killed = time.monotonic()

        async def published() -> bool:
            async with database.across_projects() as connection:
                count = await connection.fetchval(
                    "SELECT count(*) FROM event_batches WHERE last_published_at IS NULL OR publish_count < 2"
                )
            return bool(count == 0)

        await eventually(published, deadline=25, what="published by the other worker")
        say(f"published {time.monotonic() - killed:.1f} s after the kill and the broker's return")
        assert time.monotonic() - killed < 15

        async def settled() -> bool:
            return await oracle.unsettled(database) == 0

        await eventually(settled, deadline=40)
        await oracle.check(database, client.accepted)
    finally:
        await client.close()
        first.stop()
        second.stop()
