"""Workers are stopped and started again under load: nobody's connection is reset, nothing accepted is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from boost_streams.embedded.kafka import LocalKafka
from db.pool import Database
from tests.support import oracle
from tests.support.projects import TestProject
from tests.support.raw_http import ConnectionEnded, Sender, Tally, read_answer, request_bytes
from tests.support.waiting import eventually
from tests.support.workers import WorkerProcess

CONNECTIONS = 60


@pytest.fixture
async def web_worker(database_url: str) -> AsyncIterator[WorkerProcess]:
    """A worker that takes requests and nothing else, its broker away."""
    worker = WorkerProcess(
        {
            "NODE_ENV": "test",
            "DATABASE_URL": database_url,
            "KAFKA_BROKER": "127.0.0.1:1",
            "REDIS_URL": "",
            "BOOST_ROLES": "web",
        }
    )
    worker.start()
    try:
        await eventually(lambda: _listens(worker.port), deadline=20)
        yield worker
    finally:
        worker.stop()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _stored(database: Database) -> int:
    async with database.across_projects() as connection:
        stored: int = await connection.fetchval("SELECT count(*) FROM events")
    return stored


async def test_what_waits_to_be_accepted_at_sigterm_is_answered(
    web_worker: WorkerProcess, database: Database, project: TestProject
) -> None:
    """The worker is held still while connections queue up; it wakes up with a SIGTERM."""
    assert web_worker.process is not None
    web_worker.process.send_signal(signal.SIGSTOP)
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", web_worker.port) for _ in range(CONNECTIONS)))
    for _, writer in opened:
        writer.write(request_bytes(project.key))
        await writer.drain()
    web_worker.process.send_signal(signal.SIGTERM)
    web_worker.process.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*(read_answer(reader) for reader, _ in opened), return_exceptions=True)
    for _, writer in opened:
        writer.close()
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []
    assert {answer.status for answer in answers if not isinstance(answer, BaseException)} == {202}
    await eventually(lambda: web_worker.process and web_worker.process.poll() is not None, deadline=10)
    assert web_worker.process.returncode == 0
    assert await _stored(database) == CONNECTIONS


async def test_a_kept_connection_is_answered_once_more_and_ended_in_order(
    web_worker: WorkerProcess, database: Database, project: TestProject
) -> None:
    """One client sends again after SIGTERM; another stays idle, and sends when its connection is being ended."""
    assert web_worker.process is not None
    busy = await asyncio.open_connection("127.0.0.1", web_worker.port)
    idle = await asyncio.open_connection("127.0.0.1", web_worker.port)
    for reader, writer in (busy, idle):
        writer.write(request_bytes(project.key))
        first = await read_answer(reader)
        assert (first.status, first.last) == (202, False)
    web_worker.process.send_signal(signal.SIGTERM)
    await eventually(lambda: '"draining"' in web_worker.log.read_text() or "draining" in web_worker.log.read_text())
    busy[1].write(request_bytes(project.key))
    second = await read_answer(busy[0])
    assert (second.status, second.last) == (202, True)
    assert await busy[0].read() == b""

    with pytest.raises(ConnectionEnded):
        async with asyncio.timeout(5):
            await read_answer(idle[0])
    idle[1].write(request_bytes(project.key))  # crosses with the end of the stream
    await idle[1].drain()
    assert await idle[0].read() == b""
    for _, writer in (busy, idle):
        writer.close()
    await eventually(lambda: web_worker.process and web_worker.process.poll() is not None, deadline=10)
    assert web_worker.process.returncode == 0
    assert await _stored(database) == 3


@pytest.mark.kafka
@pytest.mark.slow
async def test_rolling_restarts_under_load(
    kafka: LocalKafka, database_url: str, database: Database, project: TestProject, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three workers, each restarted twice, with clients that keep connections, pause, or open one per request."""
    environment = {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": kafka.bootstrap,
        "REDIS_URL": "",
        "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
    }
    workers = [WorkerProcess(environment) for _ in range(3)]
    tally, enough = Tally(), asyncio.Event()
    ports = [worker.port for worker in workers]
    slowest_stop = 0.0
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            await worker.ready()
        senders = [
            *(Sender(ports, project.key, tally, keeps=True, pause=0.02) for _ in range(12)),
            *(Sender(ports, project.key, tally, keeps=True, pause=0.7) for _ in range(12)),
            *(Sender(ports, project.key, tally, keeps=False, pause=0.01) for _ in range(12)),
        ]
        sending = [asyncio.create_task(sender.run(enough)) for sender in senders]
        started = time.monotonic()
        for worker in [*workers, *workers]:
            slowest_stop = max(slowest_stop, await worker.terminate())
            assert worker.process is not None
            assert worker.process.returncode == 0
            worker.start()
            await worker.ready()
        took = time.monotonic() - started
        enough.set()
        await asyncio.gather(*sending)

        async def settled() -> bool:
            return await oracle.unsettled(database) == 0

        await eventually(settled, deadline=40, what="everything settled")
    finally:
        enough.set()
        for worker in workers:
            worker.stop()
    with capsys.disabled():
        print(
            f"\n6 SIGTERM in {took:.0f} s (slowest {slowest_stop:.1f} s): {tally.statuses}, {tally.refused} refused, "
            f"{len(tally.broken)} broken; slowest answer {tally.slowest:.2f} s"
        )
    assert tally.broken == []
    assert set(tally.statuses) <= {202, 503}
    assert tally.statuses.get(503, 0) == 0
    assert len(tally.accepted) > 1000
    await oracle.check(database, tally.accepted)
