"""Kafka away, emptied, or with a retention shorter than an outage: what was accepted is published again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from uuid import uuid4

import aiohttp
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from boost_streams.embedded.kafka import LocalKafka
from boost_streams.settings import load_settings
from boost_streams.topics import topic_specs
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.servers import running_kafka
from tests.support.traffic import events
from tests.support.waiting import eventually
from tests.support.workers import Client, WorkerProcess

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def own_kafka() -> Iterator[LocalKafka]:
    with running_kafka() as server:
        yield server


@pytest.fixture
def environment(own_kafka: LocalKafka, database_url: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": own_kafka.bootstrap,
        "REDIS_URL": "",
        "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
        "LOG_FORMAT": "json",
    }


async def all_settled(database: Database, deadline: float) -> None:
    async def settled() -> bool:
        return await oracle.unsettled(database) == 0

    await eventually(settled, deadline=deadline, what="everything settled")


async def send_batches(worker: WorkerProcess, project: TestProject, seed: int, count: int) -> list[str]:
    """Send events in batches of 100; return their ids."""
    ids: list[str] = []
    batch = list(events(seed, count))
    async with aiohttp.ClientSession(headers=project.headers) as client:
        for start in range(0, count, 100):
            body = json.dumps(batch[start : start + 100])
            headers = {"content-type": "application/json"}
            async with client.post(f"{worker.url}/events/batch", data=body, headers=headers) as response:
                assert response.status == 202, await response.text()
                ids += [result["id"] for result in (await response.json())["results"]]
    return ids


async def test_10_000_events_taken_while_kafka_was_away(
    environment: dict[str, str],
    own_kafka: LocalKafka,
    database: Database,
    project: TestProject,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = WorkerProcess(environment)
    try:
        worker.start()
        await worker.ready()
        await asyncio.to_thread(own_kafka.kill)
        ids = await send_batches(worker, project, 4, 10_000)
        await asyncio.to_thread(own_kafka.start)
        back = time.monotonic()
        await all_settled(database, deadline=60)
        took = time.monotonic() - back
        with capsys.disabled():
            print(f"\n10,000 events settled {took:.1f} s after Kafka's return")
        assert took < 30
        await oracle.check(database, ids)
    finally:
        worker.stop()


async def test_kafka_comes_back_empty_under_running_workers(
    environment: dict[str, str],
    own_kafka: LocalKafka,
    database: Database,
    project: TestProject,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Topics, offsets and what was on them are gone; the agents' worker was stopped with messages before it."""
    web = WorkerProcess({**environment, "BOOST_ROLES": "web,sweeper"})
    agents = WorkerProcess(environment)
    client = Client([web], project.key)
    try:
        agents.start()
        web.start()
        await agents.ready()
        await web.ready()
        await asyncio.gather(*(client.send(event) for event in events(1, 300)))
        await all_settled(database, deadline=30)
        agents.kill()
        await asyncio.gather(*(client.send(event) for event in events(2, 300)))
        agents.start()
        await asyncio.to_thread(own_kafka.wipe)
        unsettled = await oracle.unsettled(database)
        assert unsettled >= 200
        await asyncio.gather(*(client.send(event) for event in events(3, 100)))
        await asyncio.to_thread(own_kafka.start)
        back = time.monotonic()
        await all_settled(database, deadline=90)
        with capsys.disabled():
            print(f"\n{unsettled} events settled {time.monotonic() - back:.1f} s after an empty Kafka came")
        await asyncio.gather(*(client.send(event) for event in events(4, 100)))
        await all_settled(database, deadline=30)
        await oracle.check(database, client.accepted)
    finally:
        await client.close()
        web.stop()
        agents.stop()


async def test_kafka_is_emptied_while_workers_are_busy(
    environment: dict[str, str],
    own_kafka: LocalKafka,
    database: Database,
    project: TestProject,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workers = [WorkerProcess(environment) for _ in range(2)]
    client = Client(workers, project.key)
    enough = asyncio.Event()

    async def keep_sending(seed: int) -> None:
        for event in events(seed, 100_000):
            if enough.is_set():
                return
            await client.send(event)
            await asyncio.sleep(0.02)

    sending = []
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            await worker.ready()
        sending = [asyncio.create_task(keep_sending(seed)) for seed in range(8)]
        await eventually(lambda: len(client.accepted) > 500, deadline=30)
        await asyncio.to_thread(own_kafka.wipe)
        await asyncio.to_thread(own_kafka.start)
        back = time.monotonic()
        before = len(client.accepted)
        await eventually(lambda: len(client.accepted) > before + 500, deadline=30)
        enough.set()
        await asyncio.gather(*sending)
        await all_settled(database, deadline=90)
        with capsys.disabled():
            print(f"\n{len(client.accepted)} events settled {time.monotonic() - back:.1f} s after an empty Kafka came")
        await oracle.check(database, client.accepted)
    finally:
        enough.set()
        await asyncio.gather(*sending, return_exceptions=True)
        await client.close()
        for worker in workers:
            worker.stop()


async def test_a_retention_shorter_than_an_outage_loses_nothing(
    environment: dict[str, str], own_kafka: LocalKafka, database: Database, project: TestProject
) -> None:
    """What is on the topics is removed by the broker while no worker takes it, as its retention does."""
    environment = {**environment, "SWEEP_STUCK_AFTER_SECONDS": "4", "SWEEP_INTERVAL_SECONDS": "1"}
    web = WorkerProcess({**environment, "BOOST_ROLES": "web"})
    agents = WorkerProcess(environment)
    client = Client([web], project.key)
    admin = AIOKafkaAdminClient(bootstrap_servers=own_kafka.bootstrap)
    try:
        agents.start()
        web.start()
        await agents.ready()
        await web.ready()
        await asyncio.gather(*(client.send(event) for event in events(1, 200)))
        await all_settled(database, deadline=30)
        agents.kill()
        await asyncio.gather(*(client.send(event) for event in events(2, 200)))
        await eventually(lambda: _published(database), deadline=10)
        await admin.start()
        specs = topic_specs(load_settings(environment))
        everything = {
            TopicPartition(spec.name, partition): RecordsToDelete(before_offset=-1)
            for spec in specs
            if spec.config.get("cleanup.policy") == "delete"
            for partition in range(spec.partitions)
        }
        await admin.delete_records(everything)
        assert await oracle.unsettled(database) > 100
        agents.start()
        await agents.ready()
        await all_settled(database, deadline=90)
        await oracle.check(database, client.accepted)
    finally:
        await admin.close()
        await client.close()
        web.stop()
        agents.stop()


async def _published(database: Database) -> bool:
    async with database.across_projects() as connection:
        count = await connection.fetchval("SELECT count(*) FROM event_batches WHERE last_published_at IS NULL")
    return bool(count == 0)
