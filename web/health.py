"""`GET /health/live`, `/health/ready`, `/health`, `/metrics`: is the process up, may it get requests.

Every check has a deadline, and what is asked of servers is remembered for half a second, so that no number of
probes can load the database. No answer shows data of a tenant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from boost_streams.errors import BoostError
from boost_streams.metrics import REGISTRY
from boost_streams.settings import Settings
from db.batches import backlog_across_projects
from db.migrate import schema_fits, schema_revision
from db.migrations import HEAD
from db.partitions import has_partition_for_next_hour
from db.pauses import Pause, pauses_across_projects
from db.pool import Database
from db.redis import Redis
from db.server import Server, server_facts, workers_alive_across_projects
from db.workers import Progress, progress_across_projects
from web.services import json_response, services_of

#: How long one check may take (seconds): less than a request may.
DEADLINE_SECONDS = 1.5
#: How long the answer of a server is good for (seconds).
REMEMBER_SECONDS = 0.5

OK = "ok"
_WARNING = "warning: "
_NOT_KNOWN = "not known: the database does not answer"
_NO_STORE = {"Cache-Control": "no-store"}

T = TypeVar("T")


class Probe(Protocol):
    """What the worker knows of itself."""

    def broker_problem(self) -> str | None:
        """Say why the broker counts as away; None when it does not."""

    def assignment_problem(self) -> str | None:
        """Say why this worker's consumer has no partitions; None when it has, or needs none."""

    def draining(self) -> bool:
        """Tell whether this worker is stopping."""


@dataclass(frozen=True, slots=True)
class _Backlog:
    """What the database says of the work under way."""

    server: Server
    counts: Mapping[str, int]
    workers: int
    consumers: list[Progress]
    paused: list[Pause]


class _Remembered(Generic[T]):
    """Asks at most once every `REMEMBER_SECONDS`, however many want to know at once."""

    def __init__(self, ask: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._answer: tuple[float, T] | None = None

    async def __call__(self) -> T:
        async with self._one_at_a_time:
            if self._answer is None or self._clock() - self._answer[0] >= REMEMBER_SECONDS:
                answer = await self._ask()
                self._answer = (self._clock(), answer)
            return self._answer[1]


class Health:
    """Looks at everything a worker needs. `clock` (seconds) only measures how old an answer is."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        probe: Probe,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._probe = probe
        self._under_way: set[asyncio.Task[Any]] = set()
        self._database_parts = _Remembered(self._ask_database, clock)
        self._backlog = _Remembered(self._ask_backlog, clock)
        self._redis = _Remembered(self._ask_redis, clock)

    async def ready_parts(self) -> dict[str, str]:
        """Return `ok` or the reason for each part without which this worker must get no requests."""
        return {
            **await self._database_parts(),
            "broker": self._probe.broker_problem() or OK,
            "assignment": self._probe.assignment_problem() or OK,
            "draining": "this worker is stopping" if self._probe.draining() else OK,
        }

    async def detail(self) -> dict[str, Any]:
        """Return every part, and counts of what is under way (None when they could not be read)."""
        parts, backlog, redis = await asyncio.gather(self.ready_parts(), self._backlog(), self._redis())
        known = backlog if isinstance(backlog, _Backlog) else None
        parts["redis"] = redis
        parts["fsync"] = self._durability(known.server) if known else str(backlog)
        parts["consumption"] = _consumption(known.paused) if known else str(backlog)
        return {
            "status": status_of(parts),
            "parts": parts,
            "backlog": _camel(known.counts) if known else None,
            "workers": known.workers if known else None,
            "consumers": [_progress(one) for one in known.consumers] if known else None,
        }

    def _durability(self, server: Server) -> str:
        problem = server.durability_problem
        if problem is None:
            return OK
        return problem if self._settings.production else f"{_WARNING}{problem}"

    async def _ask_database(self) -> dict[str, str]:
        answer = await self._in_time(self._look_at_database())
        if isinstance(answer, str):
            return {"database": answer, "migrations": _NOT_KNOWN, "partition": _NOT_KNOWN}
        return answer

    async def _look_at_database(self) -> dict[str, str]:
        async with self._database.across_projects() as connection:
            revision = await schema_revision(connection)
            partition = revision is not None and await has_partition_for_next_hour(connection)
        behind = f"the schema is at revision {revision}, this release needs {HEAD}: run boost migrate"
        missing = "events has no partition for the next hour"
        return {
            "database": OK,
            "migrations": OK if schema_fits(revision) else behind,
            "partition": OK if partition else missing,
        }

    async def _ask_backlog(self) -> _Backlog | str:
        return await self._in_time(self._look_at_backlog())

    async def _look_at_backlog(self) -> _Backlog:
        async with self._database.across_projects() as connection:
            counts = await backlog_across_projects(connection, self._settings.sweep_stuck_after_seconds)
            _, consumers = await progress_across_projects(connection)
            return _Backlog(
                server=await server_facts(connection),
                counts=counts,
                workers=await workers_alive_across_projects(connection),
                paused=await pauses_across_projects(connection),
                consumers=sorted(consumers, key=lambda one: (one.topic, one.partition)),
            )

    async def _ask_redis(self) -> str:
        return await self._in_time(self._look_at_redis())

    async def _look_at_redis(self) -> str:
        redis = Redis(self._settings.redis_url)
        if not redis.configured:
            return f"{_WARNING}REDIS_URL is not set; keys are read from PostgreSQL"
        try:
            answers = await redis.ping()
        finally:
            await redis.close()
        return OK if answers else f"{_WARNING}does not answer; keys are read from PostgreSQL"

    async def _in_time(self, look: Coroutine[Any, Any, T]) -> T | str:
        """Return what a look found, or why it found nothing, after `DEADLINE_SECONDS` at the latest."""
        task = asyncio.ensure_future(look)
        self._under_way.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=DEADLINE_SECONDS)
        if not task.done():
            task.cancel()  # and not awaited: a frozen server takes its time to give the connection back
            return f"no answer within {DEADLINE_SECONDS:g} s"
        try:
            return task.result()
        except BoostError as error:
            return error.message
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of it


def _consumption(paused: Sequence[Pause]) -> str:
    """Say which topics no worker handles, and why; nobody is refused for it."""
    reasons = [
        f"{pause.topic} is paused since {pause.created_at:%Y-%m-%d %H:%M} UTC: {pause.reason}" for pause in paused
    ]
    return f"{_WARNING}{'; '.join(reasons)}; boost topics resume lets it go on" if reasons else OK


def status_of(parts: Mapping[str, str]) -> str:
    """Return `unavailable` when a part is neither ok nor a mere warning."""
    fine = all(part == OK or part.startswith(_WARNING) for part in parts.values())
    return "ok" if fine else "unavailable"


def _camel(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.replace("_b", "B").replace("_e", "E"): count for name, count in counts.items()}


def _progress(one: Progress) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "partition": one.partition,
        "passedAt": one.passed_at,
        "caughtUp": one.caught_up,
        "recordedAt": one.recorded_at,
    }


async def live(request: web.Request) -> web.Response:
    """Answer 200 as long as the process serves requests at all."""
    return json_response({"status": OK, "parts": {}}, headers=_NO_STORE)


async def ready(request: web.Request) -> web.Response:
    """Answer 200 when this worker may get requests, else 503 with the reason per part."""
    parts = await services_of(request).health.ready_parts()
    return _answer({"status": status_of(parts), "parts": parts})


async def detail(request: web.Request) -> web.Response:
    """Answer everything that is known: parts, backlog, workers, consumers."""
    return _answer(await services_of(request).health.detail())


def _answer(body: Mapping[str, Any]) -> web.Response:
    return json_response(body, status=200 if body["status"] == OK else 503, headers=_NO_STORE)


async def metrics(request: web.Request) -> web.Response:
    """Answer every metric in Prometheus' text format."""
    return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST, **_NO_STORE})
