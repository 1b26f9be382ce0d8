"""Workers on a real Kafka: topics, scaling out, unreadable messages, topics wiped, passwords and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from boost_streams.embedded.kafka import KafkaSecurity, LocalKafka
from boost_streams.records import DeadLetter, HandlerBatch, RawEventBatch, RecordCodec
from boost_streams.settings import load_settings
from boost_streams.topics import check_topics, ensure_topics, group_id, topic_specs
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject, make_project
from tests.support.servers import server_folder
from tests.support.traffic import events
from tests.support.waiting import eventually
from tests.support.workers import ROOT, Client, WorkerProcess

pytestmark = pytest.mark.kafka


@pytest.fixture
def environment(kafka: LocalKafka, database_url: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": kafka.bootstrap,
        "REDIS_URL": "",
        "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
        "LOG_FORMAT": "json",
        "SWEEP_STUCK_AFTER_SECONDS": "8",
        "SWEEP_INTERVAL_SECONDS": "2",
    }


@contextlib.asynccontextmanager
async def running(*environments: dict[str, str]) -> AsyncIterator[list[WorkerProcess]]:
    workers = [WorkerProcess(environment) for environment in environments]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            await worker.ready()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


async def all_settled(database: Database, deadline: float = 30) -> None:
    async def settled() -> bool:
        return await oracle.unsettled(database) == 0

    await eventually(settled, deadline=deadline, what="everything settled")


async def test_topics_are_created_as_asked_and_checked(environment: dict[str, str]) -> None:
    settings = load_settings({**environment, "KAFKA_TOPIC_PARTITIONS": "3"})
    missing, _ = await check_topics(settings)
    assert set(missing) == {spec.name for spec in topic_specs(settings)}
    assert set(await ensure_topics(settings)) == set(missing)
    assert await ensure_topics(settings) == []
    assert await check_topics(settings) == ([], [])
    other = load_settings({**environment, "KAFKA_TOPIC_PARTITIONS": "5", "MAX_EVENT_BYTES": "200000"})
    _, problems = await check_topics(other)
    text = " ".join(problem.message for problem in problems)
    assert "has 3 partitions, KAFKA_TOPIC_PARTITIONS asks for 5" in text
    assert "max.message.bytes=12800000" in text


def test_a_worker_ends_with_code_2_when_a_topic_does_not_fit(environment: dict[str, str]) -> None:
    async def make_topic() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=environment["KAFKA_BROKER"])
        await admin.start()
        await admin.create_topics([NewTopic(environment["KAFKA_TOPIC_PREFIX"] + "raw-events", 2, 1)])
        await admin.close()

    asyncio.run(make_topic())
    ended = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "boost_streams.worker", "worker", "-l", "info"],
        env={**os.environ, **environment, "PORT": "26066", "HOST": "127.0.0.1", "BOOST_DATA_DIR": tempfile.mkdtemp()},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert "has 2 partitions, KAFKA_TOPIC_PARTITIONS asks for 8" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_two_workers_share_the_work_and_the_live_counts(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    others = [await make_project(database, f"p{n}") for n in range(4)]
    async with running(environment, environment) as workers:
        accepted: list[str] = []
        for owner in (project, *others):
            client = Client(workers, owner.key)
            accepted += await asyncio.gather(*(client.send(event) for event in events(7, 60)))
            await client.close()
        await all_settled(database)
        await oracle.check(database, accepted)
        handled = [await worker.metric("boost_events_settled_total") for worker in workers]
        assert sum(handled) == 300
        assert min(handled) > 0

        for owner in (project, *others):
            async with aiohttp.ClientSession(headers=owner.headers) as session:
                for worker in workers:

                    async def counted(url: str = worker.url, session: aiohttp.ClientSession = session) -> bool:
                        async with session.get(f"{url}/live/counts") as response:
                            if response.status != 200:
                                return False
                            minutes = (await response.json())["minutes"]
                        return sum(m["processed"] + m["failed"] for m in minutes) == 60

                    await eventually(counted, deadline=15, what=f"live counts on {worker.url}")


async def test_an_unreadable_message_is_dead_lettered_and_the_agents_go_on(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    prefix = environment["KAFKA_TOPIC_PREFIX"]
    garbage = [b"\xff\x00 nonsense", b"{}", b'{"schema_version": 1, "batch_id": 3}', b"[]", None]
    topics = ("raw-events", "events.tracking", "events.default")
    async with running(environment) as workers:
        producer = AIOKafkaProducer(bootstrap_servers=environment["KAFKA_BROKER"])
        await producer.start()
        for topic in topics:
            for value in garbage:
                await producer.send_and_wait(prefix + topic, value, key=b"k")
        await producer.stop()
        client = Client(workers, project.key)
        await asyncio.gather(*(client.send(event) for event in events(3, 100)))
        await client.close()
        await all_settled(database)
        await oracle.check(database, client.accepted)

        consumer = AIOKafkaConsumer(
            prefix + "events.dead-letter", bootstrap_servers=environment["KAFKA_BROKER"], auto_offset_reset="earliest"
        )
        await consumer.start()
        letters: list[DeadLetter] = []
        codec = RecordCodec(DeadLetter)

        async def all_there() -> bool:
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                letters.extend(codec.decode(message.value) for message in messages)
            return len([letter for letter in letters if letter.reason == "malformed"]) == len(garbage) * len(topics)

        await eventually(all_there, deadline=20)
        await consumer.stop()
        malformed = [letter for letter in letters if letter.reason == "malformed"]
        assert {letter.topic for letter in malformed} == {prefix + topic for topic in topics}
        assert all(letter.error and letter.partition >= 0 and letter.offset >= 0 for letter in malformed)
        failed = [letter for letter in letters if letter.reason != "malformed"]
        assert failed
        assert all(letter.event_id and letter.project_id == project.id and letter.handler for letter in failed)
        async with database.across_projects() as connection:
            rows = await connection.fetch("SELECT * FROM dead_letters")
            all_failed = await connection.fetch("SELECT id FROM events WHERE status = 'failed'")
        assert {row["id"] for row in rows if row["project_id"] == project.id} == {row["id"] for row in all_failed}
        assert len([row for row in rows if row["project_id"] is None]) == len(garbage) * len(topics)
        assert all(row["topic"].startswith(prefix) and row["offset"] >= 0 for row in rows)


async def test_topics_wiped_while_events_are_pending(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    """A web-only worker takes events; the topics are deleted and made anew; a whole worker finds all of them."""
    async with running({**environment, "BOOST_ROLES": "web"}) as workers:
        client = Client(workers, project.key)
        await asyncio.gather(*(client.send(event) for event in events(5, 300)))
        await client.close()
    settings = load_settings(environment)
    admin = AIOKafkaAdminClient(bootstrap_servers=environment["KAFKA_BROKER"])
    await admin.start()
    await admin.delete_topics([spec.name for spec in topic_specs(settings)])

    async def gone() -> bool:
        return not {spec.name for spec in topic_specs(settings)} & set(await admin.list_topics())

    await eventually(gone, deadline=20)
    await admin.close()
    assert await oracle.unsettled(database) == 300
    async with running(environment):
        await all_settled(database, deadline=60)
    await oracle.check(database, client.accepted)


async def test_offsets_beyond_the_end_are_of_a_topic_that_is_gone(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    """The group has committed what the topics do not hold: their messages are read all the same, and not swept."""
    settings = load_settings(environment)
    await ensure_topics(settings)
    committed = AIOKafkaConsumer(
        bootstrap_servers=environment["KAFKA_BROKER"], group_id=group_id(settings), enable_auto_commit=False
    )
    await committed.start()
    partitions = [
        TopicPartition(spec.name, number)
        for spec in topic_specs(settings)
        if spec.record_type in (RawEventBatch, HandlerBatch)
        for number in range(spec.partitions)
    ]
    committed.assign(partitions)
    await committed.commit(dict.fromkeys(partitions, 1000))
    await committed.stop()
    async with running({**environment, "SWEEP_STUCK_AFTER_SECONDS": "300"}) as workers:
        client = Client(workers, project.key)
        for event in events(8, 50):
            await client.send(event)
        await all_settled(database, deadline=20)
        await client.close()
    await oracle.check(database, client.accepted)


async def test_topics_made_anew_under_a_running_worker(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    """It makes them again itself, reads them from their beginning, and nothing waits to be swept."""
    settings = load_settings(environment)
    async with running({**environment, "SWEEP_STUCK_AFTER_SECONDS": "300"}) as workers:
        client = Client(workers, project.key)
        for event in events(6, 200):
            await client.send(event)
        await all_settled(database)
        admin = AIOKafkaAdminClient(bootstrap_servers=environment["KAFKA_BROKER"])
        await admin.start()
        await admin.delete_topics([spec.name for spec in topic_specs(settings)])

        async def there() -> bool:
            return {spec.name for spec in topic_specs(settings)} <= set(await admin.list_topics())

        await eventually(there, deadline=20, what="topics there again")
        await admin.close()
        async with database.across_projects() as connection:
            made_at = await connection.fetchval("SELECT now()")

        async def looked() -> bool:
            async with database.across_projects() as connection:
                seen = "SELECT bool_and(recorded_at > $1::timestamptz + interval '3 seconds') FROM consumer_progress"
                return bool(await connection.fetchval(seen, made_at))

        await eventually(looked, deadline=40, what="the consumers say where they are on every partition")
        for event in events(7, 50):
            await client.send(event)
        await all_settled(database, deadline=30)
        assert workers[0].process is not None
        assert workers[0].process.poll() is None
        await client.close()
    await oracle.check(database, client.accepted)


async def test_duplicate_delivery_of_every_message(
    environment: dict[str, str], database: Database, project: TestProject
) -> None:
    prefix = environment["KAFKA_TOPIC_PREFIX"]
    async with running(environment) as workers:
        client = Client(workers, project.key)
        await asyncio.gather(*(client.send(event) for event in events(9, 200)))
        await client.close()
        await all_settled(database)
        consumer = AIOKafkaConsumer(
            *(prefix + topic for topic in ("raw-events", "events.tracking", "events.user", "events.payment")),
            bootstrap_servers=environment["KAFKA_BROKER"],
            auto_offset_reset="earliest",
        )
        producer = AIOKafkaProducer(bootstrap_servers=environment["KAFKA_BROKER"])
        await consumer.start()
        await producer.start()
        repeated = 0
        while messages := await consumer.getmany(timeout_ms=2000):
            if repeated > 2000:
                break
            for of_partition in messages.values():
                for message in of_partition:
                    if message.headers:
                        continue
                    await producer.send_and_wait(message.topic, message.value, headers=[("again", b"1")])
                    repeated += 1
        await consumer.stop()
        await producer.stop()
        assert repeated > 0

        async def came_again() -> bool:
            return await workers[0].metric("boost_events_redelivered_total") >= 200

        await eventually(came_again, deadline=20)
        await oracle.check(database, client.accepted)


@pytest.fixture(scope="module")
def secured_kafka() -> Iterator[LocalKafka]:
    with server_folder("kafka-secured") as folder:
        server = LocalKafka(folder, security=KafkaSecurity())
        try:
            server.start()
            yield server
        finally:
            server.stop()


async def test_a_broker_that_demands_a_password_over_tls(
    secured_kafka: LocalKafka, environment: dict[str, str], database: Database, project: TestProject
) -> None:
    assert secured_kafka.security is not None
    secure = {
        **environment,
        "KAFKA_BROKER": secured_kafka.bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": secured_kafka.security.username,
        "KAFKA_SASL_PASSWORD": secured_kafka.security.password,
        "KAFKA_SSL_CAFILE": str(secured_kafka.ca_file),
    }
    async with running(secure) as workers:
        client = Client(workers, project.key)
        await asyncio.gather(*(client.send(event) for event in events(11, 50)))
        await client.close()
        await all_settled(database)
        await oracle.check(database, client.accepted)

    wrong = WorkerProcess({**secure, "KAFKA_SASL_PASSWORD": "not-the-password"})
    wrong.start()
    try:
        await eventually(lambda: "broker_wait" in wrong.log.read_text(), deadline=30)
        await eventually(lambda: "uthenticat" in wrong.log.read_text(), deadline=30)
        assert "not-the-password" not in wrong.log.read_text()
    finally:
        wrong.stop()
