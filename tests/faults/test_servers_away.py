"""PostgreSQL and Redis go away in every way there is: answers stay quick and honest, and all goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.redis import EmbeddedRedis
from db.pool import Database
from tests.support import oracle
from tests.support.databases import migrated_template, url_of_database
from tests.support.held_still import held_still
from tests.support.projects import TestProject, make_project
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.raw_http import Sender, Tally
from tests.support.servers import running_postgres, running_redis
from tests.support.waiting import eventually
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.slow

#: A request is answered within so long, and all goes on within so long after a server's return (seconds).
ANSWERED_WITHIN = 2.0
GOES_ON_WITHIN = 5.0
#: How long a server stays away (seconds): longer than a commit may take, so that more than one is given up.
AWAY_SECONDS = 7.0

Fault = Callable[[Any, FaultProxy], AsyncIterator[None]]


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    # What is committed must outlive the server's process, not the machine.
    with running_postgres({"synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    with running_redis() as server:
        yield server


@pytest.fixture
def broker() -> Iterator[str]:
    server = EmbeddedBroker()
    server.start()
    yield server.bootstrap
    server.stop()


@pytest.fixture
def own_database_url(own_postgres: EmbeddedPostgres) -> Iterator[str]:
    with migrated_template(own_postgres.url()) as name:
        yield url_of_database(own_postgres.url(), name)


@pytest.fixture
async def way(own_postgres: EmbeddedPostgres) -> AsyncIterator[FaultProxy]:
    """The way from the worker to PostgreSQL."""
    async with fault_proxy("127.0.0.1", own_postgres.port) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def database_of(url: str) -> AsyncIterator[Database]:
    database = Database(url, pipeline_connections=3, tenant_connections=2)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def running_worker(broker: str, database_url: str, redis_url: str = "") -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(
        {
            "NODE_ENV": "test",
            "DATABASE_URL": database_url,
            "KAFKA_BROKER": broker,
            "BOOST_EMBEDDED_BROKER": "true",
            "REDIS_URL": redis_url,
            "LOG_FORMAT": "json",
        }
    )
    worker.start()
    try:
        await worker.ready()
        yield worker
    finally:
        worker.stop()


@contextlib.asynccontextmanager
async def traffic(worker: WorkerProcess, project: TestProject) -> AsyncIterator[Tally]:
    """Send about 300 events a second, on connections that are kept and on new ones."""
    tally, enough = Tally(), asyncio.Event()
    sending = [
        asyncio.create_task(Sender([worker.port], project.key, tally, keeps=keeps, pause=0.05).run(enough))
        for keeps in (True, False)
        for _ in range(8)
    ]
    try:
        await eventually(lambda: len(tally.accepted) > 200, deadline=20)
        yield tally
    finally:
        enough.set()
        await asyncio.gather(*sending)


async def postgres_is_killed(server: EmbeddedPostgres, way: FaultProxy) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    yield
    await asyncio.to_thread(server.start)


async def postgres_is_held_still(server: EmbeddedPostgres, way: FaultProxy) -> AsyncIterator[None]:
    with held_still(server.pid):
        yield


async def postgres_is_cut_off(server: EmbeddedPostgres, way: FaultProxy) -> AsyncIterator[None]:
    way.freeze()
    yield
    way.thaw()


async def postgres_is_cut_off_for_good(server: EmbeddedPostgres, way: FaultProxy) -> AsyncIterator[None]:
    """What was under way is never answered: the connections are reset when the way is open again."""
    way.freeze()
    yield
    way.cut()
    way.thaw()


FAULTS = (postgres_is_killed, postgres_is_held_still, postgres_is_cut_off, postgres_is_cut_off_for_good)


async def reads(worker: WorkerProcess, project: TestProject, event_id: str, until: asyncio.Event) -> list[float]:
    """Read events until told to stop; return how long each answer took. Each is 200, or 503 that says when to come."""
    took = []
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(headers=project.headers) as client:
        while not until.is_set():
            for path in (f"/events/{event_id}", "/events?limit=5"):
                started = loop.time()
                async with client.get(worker.url + path) as response:
                    assert response.status in (200, 503)
                    assert response.status == 200 or "Retry-After" in response.headers
                    await response.read()
                took.append(loop.time() - started)
            await asyncio.sleep(0.05)
    return took


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_postgresql_away(
    fault: Fault,
    own_postgres: EmbeddedPostgres,
    own_database_url: str,
    way: FaultProxy,
    broker: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = fault.__name__
    loop = asyncio.get_running_loop()
    worker_url = own_database_url.replace(f":{own_postgres.port}/", f":{way.port}/")
    async with database_of(own_database_url) as database:
        project = await make_project(database, "shop")
    async with running_worker(broker, worker_url) as worker:
        async with traffic(worker, project) as tally:
            read_enough = asyncio.Event()
            reading = asyncio.create_task(reads(worker, project, tally.accepted[0], read_enough))
            away = loop.time()
            async with contextlib.asynccontextmanager(fault)(own_postgres, way):
                await asyncio.sleep(AWAY_SECONDS)
            back = loop.time()
            await eventually(
                lambda: tally.first_after(back, 202) < 99, deadline=20, what="accepted again after its return"
            )
            goes_on = tally.first_after(back, 202)
            async with database_of(own_database_url) as database:

                async def settled() -> bool:
                    async with database.across_projects() as connection:
                        count = await connection.fetchval(
                            "SELECT count(*) FROM events WHERE status = 'pending' AND received_at < now() - "
                            "make_interval(secs => $1)",
                            1.0,
                        )
                    return bool(count == 0)

                await eventually(settled, deadline=20, what="what was accepted is settled again")
                settled_after = loop.time() - back
            read_enough.set()
            read_times = await reading
        slowest = max(tally.since(away, 503), default=0.0)
        refused = len([at for at, status, _ in tally.answers if status == 503])
        with capsys.disabled():
            print(
                f"\n{name}: {refused} answers 503, the slowest {slowest:.2f} s, of reads {max(read_times):.2f} s; 202 "
                f"{goes_on:.2f} s after its return, all settled after {settled_after:.2f} s; {tally.statuses}"
            )
        assert set(tally.statuses) <= {202, 503}
        assert refused > 0
        assert tally.unexplained == 0
        assert tally.broken == []
        assert tally.slowest <= ANSWERED_WITHIN
        assert max(read_times) <= ANSWERED_WITHIN
        assert goes_on <= GOES_ON_WITHIN
        assert settled_after <= GOES_ON_WITHIN
        async with database_of(own_database_url) as database:

            async def all_settled() -> bool:
                return await oracle.unsettled(database) == 0

            await eventually(all_settled, deadline=30)
            await oracle.check(database, tally.accepted, unanswered=refused)


async def redis_is_stopped(server: EmbeddedRedis, way: FaultProxy) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    way.cut()
    yield
    await asyncio.to_thread(server.start)


async def redis_is_held_still(server: EmbeddedRedis, way: FaultProxy) -> AsyncIterator[None]:
    with held_still(server.pid):
        yield


async def redis_is_cut_off(server: EmbeddedRedis, way: FaultProxy) -> AsyncIterator[None]:
    way.freeze()
    yield
    way.thaw()


@pytest.mark.parametrize("fault", [redis_is_stopped, redis_is_held_still, redis_is_cut_off], ids=lambda f: f.__name__)
async def test_redis_away(
    fault: Fault,
    own_redis: EmbeddedRedis,
    database_url: str,
    database: Database,
    broker: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No cache of its own in the worker, so that every request asks Redis first."""
    loop = asyncio.get_running_loop()
    projects = [await make_project(database, f"p{n}") for n in range(4)]
    port = urlsplit(own_redis.url).port
    assert port is not None
    async with fault_proxy("127.0.0.1", port) as way:
        redis_url = own_redis.url.replace(f":{port}", f":{way.port}")
        async with running_worker(broker, database_url, redis_url) as worker, contextlib.AsyncExitStack() as stack:
            tallies = [await stack.enter_async_context(traffic(worker, project)) for project in projects]
            away = loop.time()
            async with contextlib.asynccontextmanager(fault)(own_redis, way):
                # New keys, which this worker has not seen, have to be looked up while Redis is away.
                late = [await make_project(database, f"late{n}") for n in range(5)]
                for project in late:
                    tally = Tally()
                    for _ in range(3):
                        await Sender([worker.port], project.key, tally, keeps=False).send_one()
                    tallies.append(tally)
                    await asyncio.sleep(0.5)
            back = loop.time()
            await eventually(lambda: tallies[0].first_after(back, 202) < 99, deadline=5)
        slowest = max(max(tally.since(away, 202)) for tally in tallies)
        with capsys.disabled():
            print(f"\n{fault.__name__}: slowest answer while it was away {slowest:.2f} s")
        assert all(set(tally.statuses) == {202} for tally in tallies)
        assert all(tally.broken == [] for tally in tallies)
        assert slowest < 1.0
