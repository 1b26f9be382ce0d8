"""Turns the API key of a request into its project, without asking PostgreSQL twice a minute.

A look-up goes through the process's own cache, then Redis, then PostgreSQL. A revoked key must be refused on
every worker within a second, so both caches are believed only as far as `RevocationSubscription` vouches for
them: an entry that was read from the database after the subscription began, and of whose revocation nothing
was heard. While the subscription is lost, every look-up goes to PostgreSQL. Tombstones, here and in Redis, keep
a reader that was overtaken by the revocation from putting the key back.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec
from aiohttp import web

from boost_streams.api_key import hash_key, is_well_formed
from boost_streams.errors import BoostError, Forbidden, Overloaded, Unauthorized, Unavailable
from boost_streams.logs import get_logger
from boost_streams.settings import Settings
from db.api_keys import TOUCH_SECONDS, FoundKey, find_by_hash_across_projects, touch_across_projects
from db.deadline import ANSWER_BY
from db.pool import Database
from db.redis import Redis
from db.revocations import RevocationSubscription
from web.key_cache import ExpiringMap, KeyCache

Scope = Literal["ingest", "read", "admin"]

#: How many look-ups may be at PostgreSQL at once, and how long one waits for its turn (seconds): a flood of
#: made-up keys must not take the connections that intake needs.
MOST_LOOK_UPS = 2
WAIT_SECONDS = 2.0
#: A look-up under way for longer is not joined: it may have read the key before a revocation (seconds).
JOIN_SECONDS = 0.25
#: How often `last_used_at` of the keys used meanwhile is written (seconds).
TOUCH_EVERY_SECONDS = 1.0
#: Tombstones outlive any look-up under way, however short the cache's time is (seconds).
SHORTEST_TOMBSTONE_SECONDS = 30.0
_TOMBSTONE = b"revoked"
_NO_KEY = "this is not an API key: it is mistyped or cut off"
_MOST_WAITING = 10_000

_log = get_logger(__name__)


@dataclass(slots=True)  # not frozen: one is made for every request, and freezing costs more than all the rest of it
class Identity:
    """Who sent a request: the project, the key, and what the key may do."""

    project_id: UUID
    key_id: UUID
    scopes: Collection[str]


@dataclass(frozen=True, slots=True)
class _LookUp:
    task: asyncio.Task[FoundKey | None]
    started: float


def require(identity: Identity, scope: Scope) -> None:
    """Check that a key may do something.

    Raises:
        Forbidden: Its scopes do not allow it.
    """
    if scope not in identity.scopes:
        raise Forbidden(f"this API key may not do that: it needs the scope {scope!r}")


def key_of(request: web.Request) -> str | None:
    """Return the key that a request carries: `x-api-key`, else `Authorization: Bearer`."""
    given = request.headers.get("x-api-key")
    if given is not None:
        return given.strip()
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def redis_key(key_hash: bytes) -> str:
    """Return the name under which Redis holds a key."""
    return f"boost:key:{key_hash.hex()}"


class Authenticator:
    """Knows whose key a request carries. One per process; `start` before use."""

    def __init__(
        self,
        database: Database,
        redis: Redis,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._redis = redis
        self._ttl = settings.api_key_cache_seconds
        self._tombstone_seconds = max(2 * self._ttl, SHORTEST_TOMBSTONE_SECONDS)
        self._clock = clock
        self._cache = KeyCache(tombstone_seconds=self._tombstone_seconds, clock=clock)
        self._subscription = RevocationSubscription(
            database, self._heard_revocation, self._cache.drop_valid, clock=clock
        )
        self._look_ups: dict[bytes, _LookUp] = {}
        self._turns = asyncio.Semaphore(MOST_LOOK_UPS)
        self._tombstones: asyncio.Queue[bytes] = asyncio.Queue(_MOST_WAITING)
        self._used: set[UUID] = set()
        self._touched: ExpiringMap[bool] = ExpiringMap(_MOST_WAITING, clock)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Subscribe to revocations and begin to write down when keys are used."""
        await self._subscription.start()
        self._tasks = [
            asyncio.create_task(self._keep_touching(), name="key use"),
            asyncio.create_task(self._keep_burying(), name="key tombstones"),
        ]

    async def stop(self) -> None:
        """Stop what `start` began, after a last note of which keys were used."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._subscription.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._touch(), 1)

    async def project_of(self, request: web.Request) -> Identity:
        """Return whose key a request carries.

        Raises:
            Unauthorized: It carries none, or one that is malformed, unknown or revoked.
            Unavailable, Overloaded: That cannot be told now.
        """
        key = key_of(request)
        if not key:
            raise Unauthorized("send an API key as x-api-key or as Authorization: Bearer")
        return await self.identify(key)

    async def identify(self, key: str) -> Identity:
        """Return whose key this is.

        Raises:
            Unauthorized: It is malformed, unknown or revoked.
            Unavailable, Overloaded: That cannot be told now.
        """
        if not key.isascii():
            raise Unauthorized(_NO_KEY)
        key_hash = hash_key(key)
        found = self._cache.valid(key_hash)
        if found is None or not self._vouched_for(found):
            found = await self._find_well_formed(key, key_hash)
        return self._noted(found)

    def known(self, key_hash: bytes) -> Identity | None:
        """Return whose key has this hash where that needs no look-up; None says nothing about the key."""
        found = self._cache.valid(key_hash)
        if found is None or not self._vouched_for(found):
            return None
        return self._noted(found)

    def _noted(self, found: FoundKey) -> Identity:
        """Return the owner of a key, and note that it was used."""
        if (
            found.key_id not in self._used
            and self._touched.get(found.key_id.bytes) is None
            and len(self._used) < _MOST_WAITING
        ):
            self._used.add(found.key_id)
        return Identity(found.project_id, found.key_id, found.scopes)

    async def forget(self, key_hash: bytes) -> None:
        """Refuse a key from now on, here and through Redis: its revocation has been committed."""
        self._cache.revoke(key_hash)
        await self._bury(key_hash)

    async def _find_well_formed(self, key: str, key_hash: bytes) -> FoundKey:
        if not is_well_formed(key):
            raise Unauthorized(_NO_KEY)
        try:
            async with asyncio.timeout_at(ANSWER_BY.get()):
                found = None if self._cache.refused(key_hash) else await asyncio.shield(self._look_up_once(key_hash))
        except TimeoutError:
            raise Unavailable("API keys cannot be looked up now, try again", retry_after=1) from None
        if found is None or self._cache.revoked(key_hash):
            raise Unauthorized("this API key is unknown or was revoked")
        return found

    def _vouched_for(self, found: FoundKey) -> bool:
        """Tell whether a revocation since this was read would have been heard."""
        since = self._subscription.heard_since()
        return since is not None and found.read_at >= since

    def _look_up_once(self, key_hash: bytes) -> asyncio.Task[FoundKey | None]:
        """Join the look-up of this key that is under way, or begin one."""
        under_way = self._look_ups.get(key_hash)
        if under_way is not None and self._clock() - under_way.started < JOIN_SECONDS:
            return under_way.task
        begun = _LookUp(asyncio.create_task(self._look_up(key_hash)), self._clock())
        self._look_ups[key_hash] = begun

        def done(task: asyncio.Task[FoundKey | None]) -> None:
            if self._look_ups.get(key_hash) is begun:
                del self._look_ups[key_hash]
            if not task.cancelled():
                task.exception()  # seen by whoever still waits; nobody may

        begun.task.add_done_callback(done)
        return begun.task

    async def _look_up(self, key_hash: bytes) -> FoundKey | None:
        caching = self._ttl > 0 and self._subscription.heard_since() is not None
        if caching and (value := await self._redis.get(redis_key(key_hash))) is not None:
            if value == _TOMBSTONE:
                self._cache.revoke(key_hash)
                return None
            found = read_value(value)
            if found is not None and self._vouched_for(found):
                self._remember(key_hash, found)
                return found
        found = await self._read(key_hash)
        if found is None:
            self._cache.put_unknown(key_hash)
        elif self._vouched_for(found) and not self._cache.revoked(key_hash) and self._ttl > 0:
            self._remember(key_hash, found)
            await self._redis.set_if_absent(redis_key(key_hash), write_value(found), self._ttl)
        return found

    async def _read(self, key_hash: bytes) -> FoundKey | None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("too many API keys are being looked up", retry_after=1) from None
        try:
            async with self._database.across_projects() as connection:
                return await find_by_hash_across_projects(connection, key_hash)
        finally:
            self._turns.release()

    def _remember(self, key_hash: bytes, found: FoundKey) -> None:
        """Keep a key in this process until its time, counted from when the database was read, is over."""
        now = self._subscription.database_now()
        if now is not None:
            age = max(0.0, (now - found.read_at).total_seconds())
            self._cache.put(key_hash, found, self._ttl - age)

    def _heard_revocation(self, key_hash: bytes) -> None:
        self._cache.revoke(key_hash)
        with contextlib.suppress(asyncio.QueueFull):
            self._tombstones.put_nowait(key_hash)

    async def _keep_burying(self) -> None:
        """Write tombstones for revocations heard of: whoever revoked may not have reached Redis."""
        while True:
            await self._bury(await self._tombstones.get())

    async def _bury(self, key_hash: bytes) -> None:
        await self._redis.set(redis_key(key_hash), _TOMBSTONE, self._tombstone_seconds)

    async def _keep_touching(self) -> None:
        while True:
            await asyncio.sleep(TOUCH_EVERY_SECONDS)
            await self._touch()

    async def _touch(self) -> None:
        """Write when keys were used, at most once a minute; when that fails, the next use tries again."""
        used, self._used = self._used, set()
        if not used:
            return
        try:
            async with self._database.across_projects() as connection:
                await touch_across_projects(connection, sorted(used))
        except (BoostError, asyncpg.PostgresError) as error:
            _log.debug("the use of keys was not noted", action="key_touch", error=type(error).__name__)
            return
        for key_id in used:
            self._touched.put(key_id.bytes, True, TOUCH_SECONDS)


class _RedisValue(msgspec.Struct, rename="camel"):
    project_id: UUID
    key_id: UUID
    scopes: tuple[str, ...]
    read_at: dt.datetime


def write_value(found: FoundKey) -> bytes:
    """Write a key as the JSON that Redis holds."""
    return msgspec.json.encode(_RedisValue(found.project_id, found.key_id, found.scopes, found.read_at))


def read_value(value: bytes) -> FoundKey | None:
    """Read what Redis holds; None when it is not ours."""
    try:
        read = msgspec.json.decode(value, type=_RedisValue)
    except msgspec.MsgspecError:
        return None
    if read.read_at.tzinfo is None:
        return None
    return FoundKey(read.key_id, read.project_id, read.scopes, read.read_at)
