"""A revoked key is refused on every worker within a second, whatever the caches hold and whatever is away.

Each `Authenticator` here is a worker of its own: own caches, own subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import redis.asyncio

import web.auth
from boost_streams.api_key import hash_key, make_key
from boost_streams.embedded.redis import EmbeddedRedis
from boost_streams.errors import Overloaded, Unauthorized, Unavailable
from boost_streams.settings import Settings
from db.api_keys import find_by_hash_across_projects, revoke_or_explain
from db.pool import Database
from tests.support.projects import TestProject
from tests.support.servers import running_redis
from tests.support.waiting import eventually
from tests.support.web import authenticator
from web.auth import Authenticator, redis_key

#: What the issue promises (seconds).
PROMISE = 1.0


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis that this test may stop."""
    with running_redis() as server:
        yield server


@pytest.fixture(params=["redis", "no redis"])
def maybe_redis(request: pytest.FixtureRequest) -> str | None:
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else None


@contextlib.asynccontextmanager
async def workers(
    count: int, database: Database, settings: Settings, redis_url: str | None
) -> AsyncIterator[list[Authenticator]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(authenticator(database, settings, redis_url)) for _ in range(count)]


async def refuses(worker: Authenticator, key: str) -> bool:
    try:
        await worker.identify(key)
    except Unauthorized:
        return True
    return False


async def revoke(database: Database, project: TestProject) -> None:
    """Revoke the project's key as a process that knows of no worker and no Redis would."""
    await revoke_or_explain(database, project.id, project.key_id)


class Reads:
    """Counts look-ups in PostgreSQL, and can hold one back after it has read."""

    def __init__(self) -> None:
        self.count = 0
        self.hold = False
        self.has_read = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, connection: Any, key_hash: bytes) -> Any:
        self.count += 1
        found = await find_by_hash_across_projects(connection, key_hash)
        if self.hold:
            self.hold = False
            self.has_read.set()
            await self.go_on.wait()
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counting = Reads()
    monkeypatch.setattr(web.auth, "find_by_hash_across_projects", counting)
    return counting


class Redis:
    """Redis as an operator sees it."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url)

    async def value(self, key: str) -> Any:
        found = await self.client.get(redis_key(hash_key(key)))
        return found and (found if found == b"revoked" else json.loads(found))


@pytest.fixture
async def operator(redis_url: str) -> AsyncIterator[Redis]:
    made = Redis(redis_url)
    yield made
    await made.client.aclose()


async def break_subscriptions(database: Database) -> None:
    """End the connections that listen, as a crashed proxy would."""
    connection = await asyncpg.connect(database._url)
    try:
        ended = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND (query = 'SELECT clock_timestamp()' OR query LIKE 'LISTEN %')"
        )
    finally:
        await connection.close()
    assert ended


async def test_a_second_look_up_asks_nobody(
    database: Database, settings: Settings, project: TestProject, reads: Reads, maybe_redis: str | None
) -> None:
    async with authenticator(database, settings, maybe_redis) as worker:
        for _ in range(3):
            identity = await worker.identify(project.key)
            assert (identity.project_id, identity.key_id) == (project.id, project.key_id)
    assert reads.count == 1


async def test_redis_spares_another_worker_the_database(
    database: Database, settings: Settings, project: TestProject, reads: Reads, redis_url: str, operator: Redis
) -> None:
    async with workers(2, database, settings, redis_url) as (first, second):
        await first.identify(project.key)
        assert await second.identify(project.key) == await first.identify(project.key)
    assert reads.count == 1
    held = await operator.value(project.key)
    assert UUID(held["projectId"]) == project.id
    assert project.key not in json.dumps(held)
    assert 50 < await operator.client.ttl(redis_key(hash_key(project.key))) <= 60
    assert not await operator.client.keys(f"*{project.key}*")


async def test_concurrent_look_ups_of_a_key_are_one(
    database: Database, settings: Settings, project: TestProject, reads: Reads
) -> None:
    async with authenticator(database, settings) as worker:
        found = await asyncio.gather(*(worker.identify(project.key) for _ in range(50)))
    assert {identity.project_id for identity in found} == {project.id}
    assert reads.count == 1


async def test_a_cancelled_request_takes_no_other_down(
    database: Database, settings: Settings, project: TestProject, reads: Reads
) -> None:
    reads.hold = True
    async with authenticator(database, settings) as worker:
        leader = asyncio.create_task(worker.identify(project.key))
        await reads.has_read.wait()
        follower = asyncio.create_task(worker.identify(project.key))
        await asyncio.sleep(0)
        leader.cancel()
        reads.go_on.set()
        assert (await follower).project_id == project.id


async def test_malformed_and_unknown_keys(database: Database, settings: Settings, reads: Reads) -> None:
    async with authenticator(database, settings) as worker:
        good = make_key()
        mistyped = good[:-1] + ("a" if good[-1] != "a" else "b")
        assert await refuses(worker, mistyped)
        assert reads.count == 0
        for _ in range(3):
            assert await refuses(worker, good)
    assert reads.count == 1


async def test_a_revocation_reaches_every_worker_in_time(
    database: Database, settings: Settings, project: TestProject, maybe_redis: str | None
) -> None:
    async with workers(3, database, settings, maybe_redis) as all_workers:
        for worker in all_workers:
            await worker.identify(project.key)
        started = time.monotonic()
        await revoke(database, project)

        async def refused_everywhere() -> bool:
            return all([await refuses(worker, project.key) for worker in all_workers])

        await eventually(refused_everywhere, deadline=PROMISE)
        assert time.monotonic() - started < PROMISE
        async with authenticator(database, settings, maybe_redis) as newcomer:
            assert await refuses(newcomer, project.key)


async def test_workers_put_a_tombstone_into_redis(
    database: Database, settings: Settings, project: TestProject, redis_url: str, operator: Redis
) -> None:
    async with authenticator(database, settings, redis_url) as worker:
        await worker.identify(project.key)
        await revoke(database, project)

        async def buried() -> bool:
            return bool(await operator.value(project.key) == b"revoked")

        await eventually(buried, deadline=PROMISE)
        assert 60 < await operator.client.ttl(redis_key(hash_key(project.key))) <= 120


async def test_a_reader_overtaken_by_the_revocation_fills_no_cache(
    database: Database,
    settings: Settings,
    project: TestProject,
    reads: Reads,
    redis_url: str,
    operator: Redis,
) -> None:
    reads.hold = True
    async with workers(2, database, settings, redis_url) as (reader, revoker):
        under_way = asyncio.create_task(refuses(reader, project.key))
        await reads.has_read.wait()
        revocation = await revoke_or_explain(database, project.id, project.key_id)
        await revoker.forget(revocation.key_hash)
        await eventually(lambda: reader._cache.revoked(revocation.key_hash), deadline=PROMISE)
        reads.go_on.set()
        assert await under_way
        assert await operator.value(project.key) == b"revoked"
        for worker in (reader, revoker):
            assert await refuses(worker, project.key)


async def test_the_tombstone_keeps_a_reader_that_heard_nothing_out_of_redis(
    database: Database,
    settings: Settings,
    project: TestProject,
    reads: Reads,
    redis_url: str,
    operator: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The notification is late; only `SET NX` on the tombstone stands between the reader and Redis."""
    reads.hold = True
    async with workers(2, database, settings, redis_url) as (reader, revoker):
        monkeypatch.setattr(reader._subscription, "_on_revoked", lambda _: None)
        under_way = asyncio.create_task(refuses(reader, project.key))
        await reads.has_read.wait()
        revocation = await revoke_or_explain(database, project.id, project.key_id)
        await revoker.forget(revocation.key_hash)
        reads.go_on.set()
        await under_way
        assert await operator.value(project.key) == b"revoked"


async def test_a_stale_entry_of_redis_is_not_believed_by_a_new_worker(
    database: Database, settings: Settings, project: TestProject, redis_url: str, operator: Redis
) -> None:
    """Redis was away when the key was revoked, kept its entry, and came back."""
    async with authenticator(database, settings, redis_url) as worker:
        await worker.identify(project.key)
    held = await operator.client.get(redis_key(hash_key(project.key)))
    assert held is not None
    await revoke(database, project)
    await operator.client.set(redis_key(hash_key(project.key)), held)
    async with authenticator(database, settings, redis_url) as newcomer:
        assert await refuses(newcomer, project.key)


async def test_a_lost_subscription_leaves_nothing_trusted(
    database: Database,
    settings: Settings,
    project: TestProject,
    reads: Reads,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = asyncio.Event()
    connect = database.connect

    async def no_connection(**_: Any) -> Any:
        refused.set()
        raise Unavailable("not now")

    async with authenticator(database, settings, redis_url) as worker:
        await worker.identify(project.key)
        assert reads.count == 1
        monkeypatch.setattr(database, "connect", no_connection)
        await break_subscriptions(database)
        await asyncio.wait_for(refused.wait(), PROMISE)
        await worker.identify(project.key)
        await worker.identify(project.key)
        assert reads.count == 3
        await revoke(database, project)
        assert await refuses(worker, project.key)

        monkeypatch.setattr(database, "connect", connect)
        await eventually(lambda: worker._subscription.heard_since() is not None)
        assert await refuses(worker, project.key)


async def test_caching_goes_on_when_the_subscription_is_back(
    database: Database, settings: Settings, project: TestProject, reads: Reads, maybe_redis: str | None
) -> None:
    async with authenticator(database, settings, maybe_redis) as worker:
        await worker.identify(project.key)
        before = worker._subscription.heard_since()
        await break_subscriptions(database)
        await eventually(lambda: worker._subscription.heard_since() not in (None, before))
        await worker.identify(project.key)
        count = reads.count
        assert count == 2
        await worker.identify(project.key)
        assert reads.count == count


async def test_what_was_revoked_while_nobody_listened_is_refused(
    database: Database, settings: Settings, project: TestProject, reads: Reads, redis_url: str
) -> None:
    """A look-up that read before the revocation ends after the subscription came back: it must not be kept."""
    reads.hold = True
    async with authenticator(database, settings, redis_url) as worker:
        under_way = asyncio.create_task(worker.identify(project.key))
        await reads.has_read.wait()
        before = worker._subscription.heard_since()
        await break_subscriptions(database)
        await revoke(database, project)
        await eventually(lambda: worker._subscription.heard_since() not in (None, before))
        reads.go_on.set()
        with contextlib.suppress(Unauthorized):
            await under_way
        assert await refuses(worker, project.key)


async def test_a_worker_that_was_paused_asks_the_database_first(
    database: Database, settings: Settings, project: TestProject, reads: Reads
) -> None:
    now = [time.monotonic()]
    from db.redis import Redis as Cache

    worker = Authenticator(database, Cache(None), settings, clock=lambda: now[0])
    await worker.start()
    try:
        await worker.identify(project.key)
        now[0] += 5  # the process stood still for five seconds
        await worker.identify(project.key)
        assert reads.count == 2
    finally:
        await worker.stop()


async def test_redis_flushed_or_stopped_changes_nothing(
    database: Database, settings: Settings, project: TestProject, own_redis: EmbeddedRedis
) -> None:
    async with workers(2, database, settings, own_redis.url) as (first, second):
        await first.identify(project.key)
        client = redis.asyncio.Redis.from_url(own_redis.url)
        await client.flushall()
        await client.aclose()
        await second.identify(project.key)
        await asyncio.to_thread(own_redis.kill)
        started = time.monotonic()
        assert (await first.identify(project.key)).project_id == project.id
        async with authenticator(database, settings, own_redis.url) as third:
            assert (await third.identify(project.key)).project_id == project.id
            assert time.monotonic() - started < 2
            await revoke(database, project)

            async def refused_everywhere() -> bool:
                return all([await refuses(worker, project.key) for worker in (first, second, third)])

            await eventually(refused_everywhere, deadline=PROMISE)
            await asyncio.to_thread(own_redis.start)
            assert await refused_everywhere()


async def test_without_a_cache_every_look_up_is_the_databases(
    database: Database, settings: Settings, project: TestProject, reads: Reads, redis_url: str, operator: Redis
) -> None:
    none = settings.model_copy(update={"api_key_cache_seconds": 0.0})
    async with authenticator(database, none, redis_url) as worker:
        await worker.identify(project.key)
        await worker.identify(project.key)
    assert reads.count == 2
    assert await operator.value(project.key) is None


async def test_a_flood_of_unknown_keys_waits_its_turn_and_no_longer(
    database: Database, settings: Settings, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.auth, "MOST_LOOK_UPS", 1)
    monkeypatch.setattr(web.auth, "WAIT_SECONDS", 0.05)
    reads.hold = True
    async with authenticator(database, settings) as worker:
        slow = asyncio.create_task(refuses(worker, make_key()))
        await reads.has_read.wait()
        with pytest.raises(Overloaded):
            await worker.identify(make_key())
        reads.go_on.set()
        assert await slow


def test_redis_values_are_read_back_and_rubbish_is_not() -> None:
    import datetime as dt

    from db.api_keys import FoundKey

    found = FoundKey(UUID(int=1), UUID(int=2), ("ingest",), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert web.auth.read_value(web.auth.write_value(found)) == found
    for rubbish in (b"", b"{}", b"null", b'{"projectId": 1}'):
        assert web.auth.read_value(rubbish) is None
