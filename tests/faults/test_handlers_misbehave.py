"""Handlers that block, crash, eat memory or answer late: their events fail, neighbours settle, the worker is back.

Real workers, with the handlers of `tests/support/misbehaving*.py` loaded as an installation loads its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from boost_streams.embedded.broker import EmbeddedBroker
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.waiting import eventually
from tests.support.workers import Client, WorkerProcess

pytestmark = pytest.mark.slow

NEIGHBOURS = 40


@pytest.fixture
def environment(database_url: str) -> Iterator[dict[str, str]]:
    broker = EmbeddedBroker()
    broker.start()
    yield {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": broker.bootstrap,
        "REDIS_URL": "",
        "BOOST_EMBEDDED_BROKER": "true",
        "LOG_FORMAT": "json",
        "BOOST_HANDLER_MODULES": "tests.support.misbehaving, tests.support.misbehaving_prepare",
        "HANDLER_STALL_SECONDS": "2",
        "HANDLER_EVENT_SECONDS": "1",
        "HANDLER_MEMORY_MIB": "200",
    }
    broker.stop()


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
            "SELECT coalesce(sum(count), 0)::bigint FROM rollups WHERE metric = $1", metric
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
