"""The Redis client never raises, asks an absent Redis about once a second, and says so once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from boost_streams.embedded.redis import EmbeddedRedis
from db import redis as module
from db.redis import PAUSE_SECONDS, TIMEOUT_SECONDS, Redis
from tests.support.proxy import fault_proxy
from tests.support.servers import running_redis
from tests.support.waiting import eventually


class Log:
    """Collects the actions that are logged."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    def warning(self, _: str, *, action: str, **__: Any) -> None:
        self.actions.append(action)

    info = warning


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(module, "_log", made)
    return made


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    with running_redis() as made:
        yield made


@pytest.fixture
async def client(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    made = Redis(server.url)
    yield made
    await made.close()


async def test_values_come_back_and_expire(client: Redis) -> None:
    assert await client.get("k") is None
    assert await client.set_if_absent("k", "first", 60)
    assert not await client.set_if_absent("k", "second", 60)
    assert await client.get("k") == b"first"
    assert await client.set("k", b"third", 0.05)

    async def expired() -> bool:
        return await client.get("k") is None

    await eventually(expired, deadline=2)
    assert await client.set("k", "x", 60)
    assert await client.delete("k")
    assert not await client.delete("k")
    assert await client.ping()


@pytest.mark.parametrize("url", [None, ""])
async def test_without_a_url_nothing_happens(url: str | None) -> None:
    client = Redis(url)
    assert not client.configured
    assert await client.get("k") is None
    assert not await client.set("k", "v", 1)
    assert not await client.set_if_absent("k", "v", 1)
    assert not await client.delete("k")
    assert not await client.ping()
    await client.close()


async def test_it_says_once_that_redis_is_away_and_once_that_it_is_back(server: EmbeddedRedis, log: Log) -> None:
    clock = Clock()
    client = Redis(server.url, clock=clock)
    assert await client.set("k", "v", 60)
    await asyncio.to_thread(server.kill)
    for _ in range(3):
        assert await client.get("k") is None
        clock.now += PAUSE_SECONDS
    assert log.actions == ["redis_away"]
    await asyncio.to_thread(server.start)
    assert await client.set("k", "v", 60)
    assert await client.get("k") == b"v"
    assert log.actions == ["redis_away", "redis_back"]
    await client.close()


async def test_a_redis_that_does_not_answer_costs_one_time_out_a_second(server: EmbeddedRedis) -> None:
    clock = Clock()
    async with fault_proxy("127.0.0.1", server.port) as proxy:
        client = Redis(f"redis://127.0.0.1:{proxy.port}/0", clock=clock)
        assert await client.set("k", "v", 60)
        proxy.freeze()
        started = time.monotonic()
        for _ in range(100):
            assert await client.get("k") is None
        assert TIMEOUT_SECONDS * 0.9 < time.monotonic() - started < 2 * TIMEOUT_SECONDS + 0.5
        proxy.thaw()
        clock.now += PAUSE_SECONDS
        assert await client.get("k") == b"v"
        await client.close()
