"""Runs a replay from wherever it is to its end: wait, count piece by piece, switch, clear away (docs/adr/0019)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from agents.recounting import Recounting
from agents.registry import Registry
from agents.replay import EVENTS_PER_PIECE, Pace, Sleep, handler_called
from boost_streams.errors import BoostError, Conflict, Unavailable
from boost_streams.logs import get_logger
from db.pool import Database
from db.replaying import (
    all_ended_across_projects,
    clear_away_across_projects,
    start_replay_across_projects,
    transaction_number_across_projects,
)
from db.replays import (
    Replay,
    done_share_across_projects,
    end_replay_across_projects,
    get_replay_across_projects,
    hold_replay_across_projects,
    note_problem_across_projects,
    other_version_across_projects,
    switch_across_projects,
    take_replay_across_projects,
)
from db.rollups import fold_across_projects, has_unfolded_before_across_projects

#: How many counters are looked at at a time when old ones are cleared away.
COUNTERS_PER_PIECE = 1_000
#: How often workers' versions are looked at, and progress is told (seconds).
LOOK_SECONDS = 1.0
#: How long settlements from before the cut-over may take to end, and PostgreSQL to come back (seconds).
WAIT_SECONDS = 60.0
AWAY_SECONDS = 300.0
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """From which share of refused events on a run stops, once it has asked about so many; how long events are kept."""

    failing_share: float = 0.5
    failing_least: int = 100
    retention_days: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """How far a replay is: its row, and the share of the way that is behind it (0 to 1)."""

    replay: Replay
    share: float


Tell = Callable[[Told], None]


async def run_replay(
    database: Database,
    registry: Registry,
    services: Any,
    replay_id: int,
    *,
    limits: Limits | None = None,
    rate: int | None = None,
    tell: Tell = lambda _: None,
    piece: int = EVENTS_PER_PIECE,
    sleep: Sleep = asyncio.sleep,
) -> Replay:
    """Work on a replay until it is complete.

    Args:
        database: Where it is.
        registry: The handlers; that of the replay must have its version.
        services: What a handler's `prepare` gets.
        replay_id: Its number.
        limits: When to stop.
        rate: How many events to run again per second from now on; as before by default.
        tell: Hears how far it is, about once a second.
        piece: How many events are looked at between two commits.
        sleep: How to wait.

    Raises:
        Conflict: Another process works on it, it has ended or was cancelled, or versions do not fit.
        Unavailable: PostgreSQL is away for too long, or what a handler depends on.
        BoostError: The handler refuses too many events.
    """
    holder = await database.connect()
    try:
        if not await hold_replay_across_projects(holder, replay_id):
            raise Conflict(f"another process works on replay {replay_id}")
        runner = uuid4()
        async with database.across_projects() as connection:
            replay = await take_replay_across_projects(connection, replay_id, runner, rate)
        run = _Run(database, registry, services, replay, runner, limits or Limits(), tell, piece, sleep)
        try:
            return await run.through()
        except BoostError as error:
            await run.note(error)
            raise
    finally:
        await holder.close()


async def clear_cancelled(database: Database, replay_id: int) -> None:
    """Delete what a cancelled replay counted."""
    async with database.across_projects() as connection:
        replay = await get_replay_across_projects(connection, replay_id)
        while await clear_away_across_projects(connection, replay, COUNTERS_PER_PIECE) is not None:
            pass
        await end_replay_across_projects(connection, replay_id)


class _Run:
    """One process at work on a replay."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        services: Any,
        replay: Replay,
        runner: UUID,
        limits: Limits,
        tell: Tell,
        piece: int,
        sleep: Sleep,
    ) -> None:
        self._database = database
        self._registry = registry
        self._replay = replay
        self._runner = runner
        self._limits = limits
        self._tell = tell
        self._sleep = sleep
        pace = Pace(replay.rate, sleep=sleep)
        self._recounting = Recounting(database, registry, services, runner, pace, most=piece, sleep=sleep)
        self._looked_at = 0.0

    async def through(self) -> Replay:
        """Go through all that is left of the replay."""
        await self._patiently(self._look)
        if self._replay.state == "waiting":
            await self._patiently(self._near_side_ended)
            await self._patiently(self._write_plan)
        while self._replay.state == "running":
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                await self._patiently(self._look)
            if not await self._patiently(self._step):
                await self._patiently(self._switch)
        await self._patiently(self._older_folded)
        while await self._patiently(self._clear):
            pass
        return self._replay

    async def note(self, error: BoostError) -> None:
        """Write down why the run ends, if that can be done."""
        try:
            async with self._database.across_projects() as connection:
                await note_problem_across_projects(connection, self._replay.id, self._runner, error.message)
        except BoostError as other:
            _log.warning("the end of a replay is not noted", action="replay_note", error=other.message)

    async def _patiently(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do something, again while PostgreSQL is away. Each thing looks first at what is done already."""
        pause, gives_up_at = 0.1, time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return await work()
            except Unavailable as error:
                if time.monotonic() > gives_up_at:
                    raise
                _log.warning("a replay waits for PostgreSQL", action="replay_wait", error=error.message)
            except _CONFLICTS as error:
                _log.info("a replay tries again", action="replay_conflict", error=type(error).__name__)
            await self._sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _look(self) -> bool:
        """Read how far the replay is, and whether all workers still run its version."""
        scope = self._replay.scope
        version = handler_called(self._registry, scope.handler).version
        if version != scope.version:
            raise Conflict(
                f"replay {self._replay.id} is of version {scope.version} of {scope.handler}, not of {version}"
            )
        async with self._database.across_projects() as connection:
            problem = await other_version_across_projects(connection, scope.handler, scope.version)
            self._replay = await get_replay_across_projects(connection, self._replay.id)
            share = await done_share_across_projects(connection, self._replay.id)
        self._recounting.begin_anew()
        counting = self._replay.state in ("waiting", "running")
        if problem and counting:
            raise Conflict(f"{problem}: deploy first, then resume the replay")
        self._tell(Told(self._replay, share if counting else 1.0))
        self._looked_at = time.monotonic()
        return True

    async def _near_side_ended(self) -> bool:
        """Wait until all that settles on the near side of the cut-over has ended."""
        async with self._database.across_projects() as connection:
            number = await transaction_number_across_projects(connection)
        gives_up_at = time.monotonic() + WAIT_SECONDS
        while True:
            async with self._database.across_projects() as connection:
                if await all_ended_across_projects(connection, number):
                    return True
            if time.monotonic() > gives_up_at:
                raise BoostError(f"a transaction from before replay {self._replay.id} does not end; resume it later")
            await asyncio.sleep(0.05)

    async def _write_plan(self) -> bool:
        async with self._database.across_projects() as connection:
            self._replay = await get_replay_across_projects(connection, self._replay.id)
            if self._replay.state == "waiting":
                days = self._limits.retention_days
                await start_replay_across_projects(connection, self._replay, self._runner, days)
        return await self._look()

    async def _step(self) -> bool:
        """Run one piece again; False when nothing is left."""
        self._stop_at_many_refused()
        return await self._recounting.step(self._replay)

    def _stop_at_many_refused(self) -> None:
        replay, limits, recounting = self._replay, self._limits, self._recounting
        refused = replay.events_refused + recounting.refused
        asked = replay.events_counted + recounting.counted + refused
        if asked >= limits.failing_least and refused > limits.failing_share * asked:
            raise BoostError(
                f"the handler refuses {refused:,} of the first {asked:,} events, which were processed before: mend it, "
                f"or raise HANDLER_FAILING_SHARE, and resume replay {replay.id}; or cancel it"
            )

    async def _switch(self) -> bool:
        async with self._database.across_projects() as connection:
            self._replay = await get_replay_across_projects(connection, self._replay.id)
            if self._replay.state == "running":
                await switch_across_projects(connection, self._replay.id, self._runner)
        _log.info("questions read a replay", action="replay_switch", replay_id=self._replay.id)
        return await self._look()

    async def _older_folded(self) -> bool:
        """Have what settled before the cut-over folded: it would come back as counters that nobody reads."""
        while True:
            async with self._database.across_projects() as connection:
                if not await has_unfolded_before_across_projects(connection, self._replay.id):
                    return True
                done = await fold_across_projects(connection, at_once=True)
            if done is None:
                await asyncio.sleep(0.05)

    async def _clear(self) -> bool:
        """Delete the counters that the replay took the place of, of one project; False when none is left."""
        async with self._database.across_projects() as connection:
            if await clear_away_across_projects(connection, self._replay, COUNTERS_PER_PIECE) is not None:
                return True
            await end_replay_across_projects(connection, self._replay.id)
            self._replay = await get_replay_across_projects(connection, self._replay.id)
        return False
