"""The clock of a worker steps by an hour, ahead and back: ids stay unique, nothing is swept that is not stuck."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.event_id import created_at
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.raw_http import Sender, Tally
from tests.support.stepped_clock import SteppedClock
from tests.support.waiting import eventually
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.slow

HOUR = 3600


async def fetch(database: Database, sql: str) -> list[Any]:
    async with database.across_projects() as connection:
        return await connection.fetch(sql)


@pytest.mark.parametrize("at_start", [0, -HOUR])
async def test_a_clock_that_steps_by_an_hour(
    at_start: int, database_url: str, database: Database, project: TestProject, tmp_path: Path
) -> None:
    """The worker makes its id and its first events with the clock right, or an hour behind.

    Between the two the clock is right: libfaketime does not know `cnd_timedwait`, in which librdkafka waits. With a
    clock behind the machine's own it waits for nothing, again and again, and may never be done with its start.
    """
    clock = SteppedClock(tmp_path / "clock")
    clock.step(at_start)
    broker = EmbeddedBroker()
    broker.start()
    worker = WorkerProcess(
        {
            "NODE_ENV": "test",
            "DATABASE_URL": database_url,
            "KAFKA_BROKER": broker.bootstrap,
            "BOOST_EMBEDDED_BROKER": "true",
            "REDIS_URL": "",
            "LOG_FORMAT": "json",
            "SWEEP_STUCK_AFTER_SECONDS": "10",
            "SWEEP_INTERVAL_SECONDS": "1",
            **clock.environment,
        }
    )
    tally, enough = Tally(), asyncio.Event()
    sending: list[asyncio.Task[None]] = []
    try:
        worker.start()
        await eventually(lambda: "[^-BoostApp]: Starting" in worker.log.read_text(), deadline=30, what="the app made")
        clock.step(0)
        await worker.ready()
        senders = [Sender([worker.port], project.key, tally, keeps=keeps, pause=0.02) for keeps in (True, False) * 4]
        sending = [asyncio.create_task(sender.run(enough)) for sender in senders]
        for ahead in (at_start, HOUR, 0, -HOUR, 0):
            clock.step(ahead)
            before = len(tally.accepted)
            await eventually(lambda before=before: len(tally.accepted) > before + 300, deadline=30)  # type: ignore[misc]
        enough.set()
        await asyncio.gather(*sending)

        async def settled() -> bool:
            return await oracle.unsettled(database) == 0

        await eventually(settled, deadline=30, what="everything settled")
        await oracle.check(database, tally.accepted)
    finally:
        enough.set()
        await asyncio.gather(*sending, return_exceptions=True)
        worker.stop()
        broker.stop()
    assert set(tally.statuses) == {202}
    assert tally.broken == []
    assert len(set(tally.accepted)) == len(tally.accepted)
    ahead_of_database = [
        created_at(row["id"]) - row["received_at"]
        for row in await fetch(database, "SELECT id, received_at FROM events")
    ]
    assert max(ahead_of_database) > dt.timedelta(minutes=59)  # the clock did step
    if at_start < 0:
        assert min(ahead_of_database) < dt.timedelta(minutes=-59)
    assert await fetch(database, "SELECT * FROM event_publishes") == []
