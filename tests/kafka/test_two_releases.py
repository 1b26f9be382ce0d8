"""Two releases at once: neither loses what the other wrote, and the one before works on today's schema."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from boost_streams.embedded.kafka import LocalKafka
from boost_streams.records import DeadLetter
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.releases import next_release, previous_release
from tests.support.traffic import events
from tests.support.waiting import eventually
from tests.support.workers import Client, WorkerProcess

EVENTS = 400


@pytest.fixture
def environment(kafka: LocalKafka, database_url: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": kafka.bootstrap,
        "REDIS_URL": "",
        "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
        "LOG_FORMAT": "json",
    }


async def has_partitions(worker: WorkerProcess) -> bool:
    """Tell whether a worker is ready but for what it says of the schema: a release may know no newer one."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession() as session, session.get(f"{worker.url}/health/ready") as response:
            parts = (await response.json())["parts"]
            return {name for name, said in parts.items() if said != "ok"} <= {"migrations"}
    return False


async def send(workers: list[WorkerProcess], project: TestProject, seed: int) -> Client:
    client = Client(workers, project.key)
    limit = asyncio.Semaphore(20)

    async def one(event: dict[str, Any]) -> None:
        async with limit:
            await client.send(event)

    await asyncio.gather(*(one(event) for event in events(seed, EVENTS)))
    await client.close()
    return client


async def all_settled(database: Database, deadline: float) -> None:
    async def settled() -> bool:
        return await oracle.unsettled(database) == 0

    await eventually(settled, deadline=deadline, what="everything settled")


async def malformed(environment: dict[str, str]) -> list[DeadLetter]:
    consumer = AIOKafkaConsumer(
        f"{environment['KAFKA_TOPIC_PREFIX']}events.dead-letter",
        bootstrap_servers=environment["KAFKA_BROKER"],
        auto_offset_reset="earliest",
    )
    await consumer.start()
    letters = []
    while messages := await consumer.getmany(timeout_ms=1500):  # of either release: their shape is the same
        values = [message.value for of_one in messages.values() for message in of_one]
        letters += [msgspec.json.decode(value, type=DeadLetter) for value in values]
    await consumer.stop()
    return [letter for letter in letters if letter.reason == "malformed"]


@pytest.mark.kafka
@pytest.mark.slow
async def test_the_next_release_beside_this_one(
    environment: dict[str, str], database: Database, project: TestProject, tmp_path: Path
) -> None:
    """Both take events and partitions; then the newer one is rolled back, with its messages still on the topics."""
    ours, newer = WorkerProcess(environment), WorkerProcess(environment, root=next_release(tmp_path))
    try:
        ours.start()
        newer.start()
        await ours.ready()
        await newer.ready()
        first = await send([ours, newer], project, 1)
        await all_settled(database, deadline=45)
        postponed = await ours.metric("boost_messages_postponed_total")
        assert postponed > 0
        assert await newer.metric("boost_messages_postponed_total") == 0

        second = await send([newer], project, 2)
        newer.kill()
        third = await send([ours], project, 3)
        await all_settled(database, deadline=45)
        await oracle.check(database, [*first.accepted, *second.accepted, *third.accepted])
        assert await malformed(environment) == []
        assert await ours.metric("boost_messages_malformed_total") == 0
    finally:
        ours.stop()
        newer.stop()


@pytest.mark.kafka
@pytest.mark.slow
async def test_the_release_before_on_todays_schema(
    environment: dict[str, str], database: Database, project: TestProject, tmp_path: Path
) -> None:
    """Alone, and then beside this one."""
    folder = previous_release(tmp_path)
    if folder is None:
        pytest.skip("git has not got the release before (a shallow checkout); its statements are checked all the same")
    before, ours = WorkerProcess(environment, root=folder), WorkerProcess(environment)
    try:
        before.start()
        await eventually(lambda: has_partitions(before), deadline=40)
        first = await send([before], project, 1)
        await all_settled(database, deadline=30)
        ours.start()
        await ours.ready()
        second = await send([before, ours], project, 2)
        await all_settled(database, deadline=45)
        await oracle.check(database, [*first.accepted, *second.accepted])
        assert await malformed(environment) == []
    finally:
        before.stop()
        ours.stop()


async def test_the_statements_of_the_release_before_fit_todays_schema(database_url: str) -> None:
    """PREPARE checks names and types, EXPLAIN EXECUTE the rights of the role that runs a statement."""
    from tests.support.releases import PREVIOUS_STATEMENTS

    statements: dict[str, dict[str, Any]] = json.loads(PREVIOUS_STATEMENTS.read_text())
    assert len(statements) > 50
    problems = []
    connection = await asyncpg.connect(database_url, statement_cache_size=0)
    try:
        for name, statement in statements.items():
            if statement["sql"].lstrip().startswith(("TRUNCATE", "LOCK")):
                continue
            for role in statement["roles"]:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    if role != "boost_owner":
                        await connection.execute(f"SET LOCAL ROLE {role}")
                    await connection.execute(f"PREPARE checked AS {statement['sql']}")
                    parameters = await connection.fetchval(
                        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'checked'"
                    )
                    arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
                    await connection.execute(f"EXPLAIN EXECUTE checked{arguments}")
                except asyncpg.PostgresError as error:
                    problems.append(f"{name} as {role}: {error}")
                await transaction.rollback()
                await connection.execute("DEALLOCATE ALL")
    finally:
        await connection.close()
    assert problems == []
