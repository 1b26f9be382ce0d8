"""Redis, as far as Boost needs it: a cache that may be away at any time.

No method raises: without an answer in time a read finds nothing and a write does nothing, and for a second
Redis is not asked again, so that an outage costs one time-out a second and not one per request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# The asyncio client's own retry class: the one in redis.retry would block.
from redis.asyncio.retry import Retry  # isort: skip

from boost_streams.logs import get_logger

#: How long an answer of Redis may take (seconds).
TIMEOUT_SECONDS = 0.25
#: How long Redis is left alone after it did not answer (seconds).
PAUSE_SECONDS = 1.0
_MOST_CONNECTIONS = 16

_log = get_logger(__name__)


class Redis:
    """A client that never raises. With no URL it does nothing and finds nothing."""

    def __init__(self, url: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._away = False
        self._quiet_until = 0.0
        self._client: redis.asyncio.Redis | None = None
        if url:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                url,
                max_connections=_MOST_CONNECTIONS,
                timeout=TIMEOUT_SECONDS,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
            self._client = redis.asyncio.Redis(connection_pool=pool)

    @property
    def configured(self) -> bool:
        """Whether there is a Redis to ask at all."""
        return self._client is not None

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._run(self._client.aclose(close_connection_pool=True), None)

    async def ping(self) -> bool:
        """Tell whether Redis answers, asking even when it did not a moment ago."""
        self._quiet_until = 0.0
        return await self._ask(lambda client: client.ping(), False) is not False

    async def get(self, key: str) -> bytes | None:
        """Return the value of a key; None when there is none, or no answer."""
        value: bytes | None = await self._ask(lambda client: client.get(key), None)
        return value

    async def set(self, key: str, value: bytes | str, seconds: float) -> bool:
        """Set a value, whatever was there, for a time; tell whether that was done."""
        return bool(await self._ask(lambda client: client.set(key, value, px=_milliseconds(seconds)), False))

    async def set_if_absent(self, key: str, value: bytes | str, seconds: float) -> bool:
        """Set a value for a time unless the key has one (SET NX); tell whether that was done."""
        return bool(await self._ask(lambda client: client.set(key, value, px=_milliseconds(seconds), nx=True), False))

    async def delete(self, key: str) -> bool:
        """Remove a key; tell whether there was one."""
        return bool(await self._ask(lambda client: client.delete(key), 0))

    async def _ask(self, command: Callable[[Any], Awaitable[Any]], otherwise: Any) -> Any:
        if self._client is None or self._clock() < self._quiet_until:
            return otherwise
        return await self._run(command(self._client), otherwise)

    async def _run(self, answer: Awaitable[Any], otherwise: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                value = await answer
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            self._note_away(error)
            return otherwise
        self._note_back()
        return value

    def _note_away(self, error: Exception) -> None:
        self._quiet_until = self._clock() + PAUSE_SECONDS
        if not self._away:
            self._away = True
            _log.warning("Redis is away; going on without its cache", action="redis_away", error=type(error).__name__)

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            _log.info("Redis is back", action="redis_back")


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
