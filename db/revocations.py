"""Hears of revoked API keys within milliseconds, and knows when it does not.

One LISTEN connection per worker. What it has heard is complete from `heard_since()` on: a key that was read
from the database at or after that time, and of whose revocation nothing was heard, is still valid. A
heartbeat on the same connection tells silence from a dead peer: notifications come in order with its answers,
so a worker that was paused, or cut off without a word, stops trusting before a second has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import asyncpg

from boost_streams.errors import BoostError
from boost_streams.logs import get_logger
from db.api_keys import REVOKED_CHANNEL
from db.pool import Database

#: How often the connection is asked whether it lives, and how long its answer may take (seconds).
HEARTBEAT_SECONDS = 0.25
HEARTBEAT_TIMEOUT_SECONDS = 0.5
#: For how long after an answered heartbeat was sent its silence means that nothing was revoked (seconds).
LEASE_SECONDS = 0.8
#: Pauses between attempts to connect again: doubled from the first to the longest (seconds).
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
_START_SECONDS = 1.0
_CLOSE_SECONDS = 1.0

_NOW = "SELECT clock_timestamp()"

_log = get_logger(__name__)


class RevocationSubscription:
    """Calls `on_revoked` with the hash of every revoked key, and `on_lost` when it may have missed one."""

    def __init__(
        self,
        database: Database,
        on_revoked: Callable[[bytes], None],
        on_lost: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._on_revoked = on_revoked
        self._on_lost = on_lost
        self._clock = clock
        self._since: dt.datetime | None = None
        self._since_at = 0.0
        self._lease_ends = 0.0
        self._first_attempt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def heard_since(self) -> dt.datetime | None:
        """Return the database's time from which every revocation was heard; None while that is not sure."""
        return self._since if self._clock() < self._lease_ends else None

    def database_now(self) -> dt.datetime | None:
        """Return about the database's time; None where `heard_since` is."""
        since = self.heard_since()
        return since and since + dt.timedelta(seconds=self._clock() - self._since_at)

    async def start(self) -> None:
        """Subscribe; return after the first attempt, whether it worked or not, or after a second."""
        self._task = asyncio.create_task(self._keep_listening(), name="key revocations")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_attempt.wait(), _START_SECONDS)

    async def stop(self) -> None:
        """Give the subscription up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_listening(self) -> None:
        pause, lost = FIRST_PAUSE_SECONDS, False
        while True:
            try:
                async with contextlib.aclosing(self._beats()) as beats:
                    async for _ in beats:
                        pause = FIRST_PAUSE_SECONDS
                        if lost:
                            _log.info("hearing of revoked keys again", action="revocations_heard")
                            lost = False
                        self._first_attempt.set()
            except (BoostError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if not lost:
                    lost = True
                    _log.warning(
                        "not hearing of revoked keys; every key is looked up in PostgreSQL",
                        action="revocations_lost",
                        error=type(error).__name__,
                    )
            self._first_attempt.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _beats(self) -> AsyncGenerator[None, None]:
        """Listen, and yield after every heartbeat; end by raising what broke the connection."""
        connection = await self._database.connect()
        try:
            await connection.add_listener(REVOKED_CHANNEL, self._heard)
            sent = self._clock()
            self._since = await connection.fetchval(_NOW, timeout=HEARTBEAT_TIMEOUT_SECONDS)
            self._since_at = sent
            while True:
                self._lease_ends = sent + LEASE_SECONDS
                yield
                await asyncio.sleep(HEARTBEAT_SECONDS)
                sent = self._clock()
                await connection.fetchval(_NOW, timeout=HEARTBEAT_TIMEOUT_SECONDS)
        finally:
            self._lease_ends = 0.0
            self._on_lost()
            await _close(connection)

    def _heard(self, _: Any, __: int, ___: str, payload: object) -> None:
        try:
            key_hash = bytes.fromhex(str(payload))
        except ValueError:
            return
        self._on_revoked(key_hash)


async def _close(connection: asyncpg.Connection[Any]) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        connection.terminate()
