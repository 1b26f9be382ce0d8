"""Says what a replay runs again, counts it, and begins it; the work is done by agents/replaying.py (docs/adr/0019)."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agents.registry import Handler, Registry
from boost_streams.errors import Conflict
from boost_streams.logs import get_logger
from db.pool import Database
from db.replaying import plan_parts_across_projects, read_piece_across_projects
from db.replays import Scope, create_replay_across_projects, other_version_across_projects
from db.rollups import newest_cutover_across_projects

#: How many events are looked at between two commits.
EVENTS_PER_PIECE = 500
#: How many stored events are run again per second unless somebody says otherwise: a fraction of what a worker settles.
DEFAULT_RATE = 2_000

_log = get_logger(__name__)

Sleep = Callable[[float], Awaitable[object]]


class Pace:
    """Waits so that no more than `rate` events are run again per second, on the average; 0 waits never."""

    def __init__(self, rate: int, *, clock: Callable[[], float] = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    async def after(self, events: float) -> None:
        """Wait for as long as these events are to take; time that was lost is not made up for."""
        now = self._clock()
        self._due = max(self._due, now - 1.0) + (events / self._rate if self._rate else 0.0)
        if self._due > now:
            await self._sleep(self._due - now)


def scope_of(registry: Registry, handler: str | None, event_type: str | None, **bounds: Any) -> Scope:
    """Say what a replay of a handler runs again, or of one event type; `bounds` are the rest of the scope.

    Raises:
        Conflict: There is no such handler, or the type is not its own.
    """
    if event_type is not None:
        found = registry.handler_of(event_type)
        if handler not in (None, found.name):
            raise Conflict(f"{event_type!r} is taken by the handler {found.name}, not by {handler}")
        return Scope(found.name, found.version, (event_type,), **bounds)
    found = handler_called(registry, handler or "")
    if found.event_types:
        return Scope(found.name, found.version, found.event_types, **bounds)
    taken = tuple(sorted(name for other in registry.handlers for name in other.event_types))
    return Scope(found.name, found.version, taken, all_others=True, **bounds)


def handler_called(registry: Registry, name: str) -> Handler:
    """Return a handler by its name.

    Raises:
        Conflict: There is none.
    """
    for handler in registry.handlers:
        if handler.name == name:
            return handler
    raise Conflict(f"no handler {name!r}; there are {', '.join(sorted(one.name for one in registry.handlers))}")


async def create_replay(database: Database, scope: Scope, rate: int = DEFAULT_RATE) -> int:
    """Begin a replay: its cut-over is now. Return its number.

    Raises:
        Conflict: A living worker settles events with another version of the handler.
    """
    async with database.across_projects() as connection:
        if problem := await other_version_across_projects(connection, scope.handler, scope.version):
            raise Conflict(f"{problem}: deploy first, then replay")
        number = await create_replay_across_projects(connection, scope, rate)
    _log.info("a replay begins", action="replay_begin", handler=scope.handler, replay_id=number)
    return number


async def count_replayed(
    database: Database,
    scope: Scope,
    *,
    rate: int = DEFAULT_RATE,
    retention_days: int = 0,
    piece: int = EVENTS_PER_PIECE,
) -> int:
    """Count the events that a replay would run again if it began now; nothing is changed."""
    found, pace = 0, Pace(rate)
    async with database.across_projects() as connection:
        cutover = await newest_cutover_across_projects(connection) + 1
        parts = await plan_parts_across_projects(connection, scope.project_id, scope.since, scope.until, retention_days)
    for part in parts:
        while True:
            async with database.across_projects() as connection:
                read = await read_piece_across_projects(connection, scope, cutover, part, piece)
            if read is None:
                break
            found += len(read.records)
            part = dataclasses.replace(part, position=read.last_id)
            await pace.after(read.cost)
    return found
