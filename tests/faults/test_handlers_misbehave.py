"""Handlers that block, crash, eat memory or answer late: their events fail, neighbours settle, the worker is back.

Real workers, with the handlers of `tests/support/misbehaving*.py` loaded as an installation loads its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.embedded.kafka import LocalKafka
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.traffic import events
from tests.support.waiting import eventually
from tests.support.workers import ROOT, Client, WorkerProcess

pytestmark = pytest.mark.slow

NEIGHBOURS = 40


def settings_of(database_url: str, **more: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "REDIS_URL": "",
        "LOG_FORMAT": "json",
        "BOOST_HANDLER_MODULES": "tests.support.misbehaving, tests.support.misbehaving_prepare",
        "HANDLER_STALL_SECONDS": "2",
        "HANDLER_EVENT_SECONDS": "1",
        "HANDLER_MEMORY_MIB": "200",
        **more,
    }


@pytest.fixture
def environment(database_url: str) -> Iterator[dict[str, str]]:
    broker = EmbeddedBroker()
    broker.start()
    yield settings_of(database_url, KAFKA_BROKER=broker.bootstrap, BOOST_EMBEDDED_BROKER="true")
    broker.stop()


@pytest.fixture
async def pair(kafka: LocalKafka, database_url: str) -> AsyncIterator[list[WorkerProcess]]:
    """Two workers on a real Kafka that nobody starts again; their settings are those of a third."""
    environment = settings_of(database_url, KAFKA_BROKER=kafka.bootstrap, KAFKA_TOPIC_PREFIX=f"t{uuid4().hex[:8]}-")
    workers = [WorkerProcess(environment), WorkerProcess(environment)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            await worker.ready()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


class Supervised:
    """A worker that is started again whenever it ends, as a supervisor does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.worker = WorkerProcess(environment)
        self.ends: list[int] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.worker.start()
        await self.worker.ready()
        self._task = asyncio.create_task(self._supervise())

    async def _supervise(self) -> None:
        while True:
            assert self.worker.process is not None
            if (code := self.worker.process.poll()) is not None:
                self.ends.append(code)
                self.worker.start()
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.worker.stop()

    def lines(self, action: str) -> list[dict[str, Any]]:
        """Return the log lines of an action."""
        found = []
        for line in self.worker.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if (read := json.loads(line)).get("action") == action:
                    found.append(read)
        return found


@pytest.fixture
async def supervised(environment: dict[str, str]) -> AsyncIterator[Supervised]:
    one = Supervised(environment)
    try:
        await one.start()
        yield one
    finally:
        await one.stop()


async def send(worker: WorkerProcess, project: TestProject, how: list[str], event_type: str = "misbehave") -> list[str]:
    """Send one event of each kind among neighbours that are fine; return their ids in the order of `how`."""
    client = Client([worker], project.key)
    try:
        payloads: list[dict[str, Any]] = [{} for _ in range(NEIGHBOURS)]
        half = NEIGHBOURS // 2
        payloads[half:half] = [{"how": one} for one in how]
        ids = await asyncio.gather(
            *(client.send({"eventType": event_type, "payload": payload}) for payload in payloads)
        )
        return list(ids[half : half + len(how)])
    finally:
        await client.close()


async def part_of_health(worker: WorkerProcess, path: str) -> tuple[int, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(worker.url + path) as response:
        return response.status, (await response.json())["parts"]


async def all_settled(database: Database, deadline: float = 90) -> None:
    async def settled() -> bool:
        return await oracle.unsettled(database) == 0

    await eventually(settled, deadline=deadline, what="everything settled")


async def errors(database: Database) -> dict[str, dict[str, Any]]:
    """Return the error of each failed event."""
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT id, error FROM events WHERE status = 'failed'")
    return {str(row["id"]): json.loads(row["error"]) for row in rows}


async def counted(database: Database, metric: str) -> int:
    async with database.across_projects() as connection:
        count: int = await connection.fetchval(
            "SELECT coalesce(sum(count), 0)::bigint FROM current_rollups WHERE metric = $1", metric
        )
    return count


@pytest.mark.parametrize(
    ("how", "ends", "why"),
    [
        ("loop", 75, "no answer within 1 s"),
        ("sleep", 75, "no answer within 1 s"),
        ("regex", -26, "no answer within 1 s"),
        ("memory", 75, "200 MiB of memory"),
        ("crash", -11, "SIGSEGV"),
    ],
)
async def test_an_event_that_takes_the_worker_along_fails_alone(
    supervised: Supervised, database: Database, project: TestProject, how: str, ends: int, why: str
) -> None:
    (killer,) = await send(supervised.worker, project, [how])
    await all_settled(database)
    failed = await errors(database)
    assert list(failed) == [killer]
    assert failed[killer]["code"] == "handler_killed"
    assert why in failed[killer]["message"]
    assert await counted(database, "misbehaved") == NEIGHBOURS
    assert supervised.ends == [ends]
    if ends == 75:
        (said,) = supervised.lines("stalled")
        assert (said["handler"], said["event_id"]) == ("misbehaving", killer)
        assert "misbehaving.py" in said["error"]
    assert [line["event_id"] for line in supervised.lines("handler_killed")] == [killer, killer]

    # The worker is back: what comes now settles at once, and nobody is killed for it.
    await supervised.worker.ready()
    await send(supervised.worker, project, [])
    await all_settled(database, deadline=10)
    assert await counted(database, "misbehaved") == 2 * NEIGHBOURS
    assert supervised.ends == [ends]


@pytest.mark.parametrize("how", ["raise", "late", "deaf"])
async def test_prepare_that_fails_for_one_event_keeps_no_other_waiting(
    supervised: Supervised, database: Database, project: TestProject, how: str
) -> None:
    (offender,) = await send(supervised.worker, project, [how], "prepare_badly")

    async def neighbours_settled() -> bool:
        return await oracle.unsettled(database) == 1

    await eventually(neighbours_settled, deadline=20)
    assert await counted(database, "prepared") == NEIGHBOURS
    async with database.across_projects() as connection:
        row = await connection.fetchrow("SELECT event_id, attempt, reason FROM event_retries")
    assert str(row["event_id"]) == offender
    assert row["attempt"] >= 1
    assert "prepare: " in row["reason"]
    assert supervised.ends == []


async def test_prepare_that_blocks_the_loop_fails_its_own_event(
    supervised: Supervised, database: Database, project: TestProject
) -> None:
    (killer,) = await send(supervised.worker, project, ["block"], "prepare_badly")
    await all_settled(database)
    failed = await errors(database)
    assert {event_id: error["code"] for event_id, error in failed.items()} == {killer: "handler_killed"}
    assert await counted(database, "prepared") == NEIGHBOURS
    assert supervised.ends == [75]
    assert supervised.lines("stalled")[0]["handler"] == "misbehaving_prepare"


async def test_a_stopped_worker_that_is_continued_is_not_ended(
    supervised: Supervised, database: Database, project: TestProject
) -> None:
    process = supervised.worker.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(6)  # three times HANDLER_STALL_SECONDS
    process.send_signal(signal.SIGCONT)
    await supervised.worker.ready()
    await send(supervised.worker, project, [])
    await all_settled(database)
    assert supervised.ends == []
    assert supervised.lines("stalled") == []


async def test_many_killers_of_several_kinds_among_the_events_of_all_families(
    supervised: Supervised, database: Database, project: TestProject
) -> None:
    """What is in hand of the families that behave comes again, and the killers after the first kill no worker."""
    client = Client([supervised.worker], project.key)
    await asyncio.gather(*(client.send(event) for event in events(3, 200)))
    await client.close()
    killers = await send(supervised.worker, project, ["crash", "loop", "sleep", "crash", "memory"])
    await all_settled(database, deadline=120)
    failed = await errors(database)
    assert {one for one, error in failed.items() if error["code"] == "handler_killed"} == set(killers)
    assert await counted(database, "misbehaved") == NEIGHBOURS
    assert len(supervised.ends) == 1


async def test_a_bad_deploy_is_paused_and_loses_nothing(
    environment: dict[str, str], database: Database, project: TestProject, other_project: TestProject
) -> None:
    bad = Supervised({**environment, "TEST_BAD_DEPLOY": "1", "HANDLER_FAILING_LEAST": "40"})
    mended = Supervised(environment)
    try:
        await bad.start()
        for _ in range(3):
            for owner in (project, other_project):
                await send(bad.worker, owner, [])

        async def paused() -> bool:
            return (await part_of_health(bad.worker, "/health"))[1]["consumption"].startswith("warning: events.payment")

        await eventually(paused, deadline=20)
        assert (await part_of_health(bad.worker, "/health/ready"))[0] == 200
        assert (await part_of_health(bad.worker, "/health"))[0] == 200
        assert await bad.worker.metric("boost_topic_paused") == 1
        assert bad.lines("topic_paused")[0]["handler"] == "misbehaving"

        # The other families go on, and what is paused is published again by nobody.
        client = Client([bad.worker], project.key)
        await asyncio.gather(*(client.send({"eventType": "page_view", "payload": {"url": "/"}}) for _ in range(20)))
        await client.close()

        async def views_settled() -> bool:
            return await counted(database, "page_views") == 20

        await eventually(views_settled, deadline=20)
        failed_before = len(await errors(database))
        waiting = await oracle.unsettled(database)
        assert waiting + failed_before == 6 * NEIGHBOURS
        assert failed_before <= 3 * NEIGHBOURS  # all of one project, where partitions bring them so: it stops nobody
        await bad.stop()

        await mended.start()
        await eventually(lambda: bool(mended.lines("topic_paused")), deadline=20)
        assert await oracle.unsettled(database) == waiting
        async with database.across_projects() as connection:
            assert await connection.fetchval("SELECT coalesce(max(publish_count), 1) FROM event_batches") <= 2
        assert await command(environment, "resume", "misbehaving") == 0
        await all_settled(database, deadline=30)
        assert len(await errors(database)) == failed_before
        assert await counted(database, "misbehaved") == waiting
    finally:
        await bad.stop()
        await mended.stop()


@pytest.mark.kafka
@pytest.mark.parametrize("how", ["loop", "crash"])
async def test_the_worker_beside_it_takes_over_and_survives(
    pair: list[WorkerProcess], database: Database, project: TestProject, how: str
) -> None:
    (killer,) = await send(pair[0], project, [how])
    if how == "loop":
        await bury_before_kafka_notices(pair, database)
    await all_settled(database)
    failed = await errors(database)
    assert {event_id: error["code"] for event_id, error in failed.items()} == {killer: "handler_killed"}
    assert await counted(database, "misbehaved") == NEIGHBOURS
    ends = [worker.process.poll() for worker in pair if worker.process]
    assert sorted(end is None for end in ends) == [False, True]


async def bury_before_kafka_notices(pair: list[WorkerProcess], database: Database) -> None:
    """Have all that the dead worker published go out again, to partitions of the living one too (docs/adr/0027)."""

    def dead() -> WorkerProcess | None:
        return next((one for one in pair if one.process and one.process.poll() is not None), None)

    one = await eventually(dead, deadline=20)
    async with database.across_projects() as connection:
        worker_id = await connection.fetchval(
            "UPDATE workers SET heartbeat_at = now() - interval '1 minute', published_seq = 0 WHERE url = $1 "
            "RETURNING id",
            one.url,
        )
        left = [
            row["id"] for row in await connection.fetch("SELECT id FROM event_batches WHERE worker_id = $1", worker_id)
        ]

    async def buried() -> bool:
        async with database.across_projects() as connection:
            return not await connection.fetchval("SELECT count(*) FROM workers WHERE id = $1", worker_id)

    await eventually(buried, deadline=20)

    async def published() -> bool:
        async with database.across_projects() as connection:
            return not await connection.fetchval(
                "SELECT count(*) FROM event_batches WHERE id = ANY($1::uuid[]) AND last_published_at IS NULL", left
            )

    for _ in range(4):  # a copy goes to any partition: one of them to the living worker's
        await eventually(published, deadline=20)
        async with database.across_projects() as connection:
            await connection.execute(
                "UPDATE event_batches SET last_published_at = NULL, due_at = now() WHERE id = ANY($1::uuid[])", left
            )


@pytest.mark.kafka
async def test_a_pause_outlives_rebalances_and_stops_nobody(
    pair: list[WorkerProcess], database: Database, project: TestProject
) -> None:
    environment = dict(pair[0].environment)
    assert await command(environment, "pause", "events.payment") == 0

    async def known() -> bool:
        return [await worker.metric("boost_topic_paused") for worker in pair] == [1, 1]

    await eventually(known, deadline=10)
    await send(pair[0], project, [])
    third = WorkerProcess(environment)
    try:
        third.start()
        await third.ready()
        for _ in range(3):
            await send(third, project, [])
        assert await pair[0].terminate() < 10
        await pair[1].ready()
        client = Client([third], project.key)
        await client.send({"eventType": "page_view", "payload": {"url": "/"}})
        await client.close()

        async def viewed() -> bool:
            return await counted(database, "page_views") == 1

        await eventually(viewed, deadline=30)
        assert await oracle.unsettled(database) == 4 * NEIGHBOURS
        assert await command(environment, "resume", "misbehaving") == 0
        await all_settled(database, deadline=30)
        assert await counted(database, "misbehaved") == 4 * NEIGHBOURS
        async with database.across_projects() as connection:
            assert await connection.fetchval("SELECT count(*) FROM event_batches") == 0
    finally:
        third.stop()


async def command(environment: dict[str, str], *arguments: str) -> int | None:
    """Run `boost topics …`; return its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from boost_streams.cli.main import cli; cli()",
        "topics",
        *arguments,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    return await process.wait()
