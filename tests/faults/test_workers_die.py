"""Two workers on a real Kafka, killed at random under load: nothing accepted is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
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

EVENTS = 20_000
SECONDS = 95
KILLS = 40 if os.environ.get("BOOST_FAULTS") == "long" else 6
SEED = int(os.environ.get("BOOST_SEED", "0")) or random.randrange(1, 1_000_000)


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
async def workers(environment: dict[str, str]) -> AsyncIterator[list[WorkerProcess]]:
    pair = [WorkerProcess(environment), WorkerProcess(environment)]
    try:
        for worker in pair:
            worker.start()
        for worker in pair:
            await worker.ready()
        yield pair
    finally:
        for worker in pair:
            worker.stop()


class Killer:
    """Kills one of the workers again and again, and starts it again."""

    def __init__(self, workers: list[WorkerProcess], chance: random.Random) -> None:
        self._workers = workers
        self._chance = chance
        self.kills = 0
        self.terms = 0
        self.redelivered = 0.0
        self.slowest_term = 0.0

    async def run(self, times: int, seconds: float) -> None:
        for number in range(times):
            await asyncio.sleep(seconds / times * self._chance.uniform(0.2, 0.6))
            victim = self._chance.choice(self._workers)
            self.redelivered += await victim.metric("boost_events_redelivered_total")
            if number % 2 == 0:
                victim.kill()
                self.kills += 1
            else:
                took = await victim.terminate()
                assert took < 10, f"SIGTERM took {took:.1f} s"
                self.slowest_term = max(self.slowest_term, took)
                self.terms += 1
            victim.start()
            await victim.ready()


async def test_20_000_events_while_workers_die(
    database: Database, project: TestProject, workers: list[WorkerProcess], say: Callable[[str], None]
) -> None:
    chance = random.Random(SEED)
    say(f"seed {SEED}")
    client = Client(workers, project.key)
    killer = Killer(workers, chance)
    started = time.monotonic()
    killing = asyncio.create_task(killer.run(KILLS, SECONDS))
    limit = asyncio.Semaphore(200)
    sends: list[asyncio.Task[None]] = []

    async def send(event: dict[str, object]) -> None:
        async with limit:
            await client.send(event)

    for number, event in enumerate(events(SEED, EVENTS)):
        pause = started + number * SECONDS / EVENTS - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        sends.append(asyncio.create_task(send(event)))
    await asyncio.gather(*sends)
    sent = time.monotonic() - started
    await killing
    stopped_killing = time.monotonic()

    async def settled() -> bool:
        return await oracle.unsettled(database) == 0

    await eventually(settled, deadline=60, what="everything settled")
    recovery = time.monotonic() - stopped_killing
    redelivered = killer.redelivered + sum(
        [await worker.metric("boost_events_redelivered_total") for worker in workers]
    )
    await client.close()
    say(
        f"{len(client.accepted)} events in {sent:.0f} s, {killer.kills} SIGKILL, {killer.terms} SIGTERM "
        f"(slowest {killer.slowest_term:.1f} s); settled {recovery:.1f} s after the last start; "
        f"{redelivered:.0f} redelivered; slowest answer {client.slowest:.1f} s; answers {client.statuses}"
    )
    assert sent >= 90
    assert killer.kills + killer.terms >= 6
    assert len(client.accepted) == EVENTS
    await oracle.check(database, client.accepted)


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
