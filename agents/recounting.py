"""Runs stored events again, a piece at a time: the piece's effects and the position after it commit together.

Whatever ends a run, at whatever statement, another goes on from there, and nothing counts twice (docs/adr/0019).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from agents.calling import outcomes
from agents.effects import Settled, counted_again, effects_of
from agents.registry import Registry
from agents.replay import Pace, Sleep
from boost_streams.errors import BoostError, Conflict, Unavailable
from boost_streams.logs import get_logger
from boost_streams.outcomes import Processed, TryAgain, failed
from boost_streams.records import EventRecord
from db.end_users import see_across_projects
from db.pool import Database
from db.replaying import (
    Advance,
    Part,
    Piece,
    advance_across_projects,
    is_runner_across_projects,
    next_part_across_projects,
    read_piece_across_projects,
)
from db.replays import Replay
from db.rollups import add_across_projects

#: The pauses before events are asked about again to which a handler answers "try again" (seconds).
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
#: The project is gone.
_GONE = asyncpg.ForeignKeyViolationError
#: A row that cannot be stored: data, constraint, limit.
_REFUSED = ("22", "23", "54")

_log = get_logger(__name__)


class Recounting:
    """Asks handlers about stored events again, and counts what they say."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        services: Any,
        runner: UUID,
        pace: Pace,
        *,
        most: int,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._database = database
        self._registry = registry
        self._services = services
        self._runner = runner
        self._pace = pace
        self._most = self._size = most
        self._sleep = sleep
        self.begin_anew()

    def begin_anew(self) -> None:
        """Count from 0 how many events were counted, and how many refused."""
        self.counted = self.refused = 0

    async def step(self, replay: Replay) -> bool:
        """Run the next piece again; False when nothing is left.

        Raises:
            Conflict: The replay was cancelled, or somebody else works on it.
            Unavailable: PostgreSQL is away; call it again.
            BoostError: The handler goes on answering "try again".
        """
        async with self._database.across_projects() as connection:
            part = await next_part_across_projects(connection, replay.id)
            if part is None:
                return False
            piece = await read_piece_across_projects(connection, replay.scope, replay.id, part, self._size)
        if piece is None:
            await self._commit(replay, Advance(part, part.cutover_id, True, 0, 0, 0), ())
            return True
        await self._count(replay, part, piece, await self._ask(replay, piece.records))
        await self._pace.after(piece.cost)
        return True

    async def _ask(self, replay: Replay, records: Sequence[EventRecord]) -> list[Settled]:
        """Ask the handler until it answers "try again" to no event."""
        answered: list[Settled] = []
        asked: Sequence[EventRecord] = records
        reason = ""
        for pause in (0.0, *_PAUSES):
            if pause:
                await self._sleep(pause)
            said = await outcomes(self._registry, asked, self._services)
            answered += [one for one in said if not isinstance(one.outcome, TryAgain)]
            later = {one.event.id: one.outcome for one in said if isinstance(one.outcome, TryAgain)}
            if not later:
                return answered
            reason = next(iter(later.values())).reason
            asked = [record for record in asked if record.id in later]
        raise BoostError(f"the handler goes on answering 'try again' ({reason}); resume replay {replay.id} later")

    async def _count(self, replay: Replay, part: Part, piece: Piece, settled: Sequence[Settled]) -> None:
        """Write what a piece counts; where that is refused, find the event whose fault it is by smaller pieces."""
        refused = sum(not isinstance(one.outcome, Processed) for one in settled)
        step = Advance(part, piece.last_id, False, piece.read, len(settled) - refused, refused)
        try:
            await self._commit(replay, step, settled)
        except (*_CONFLICTS, BoostError, asyncio.CancelledError):
            raise
        except _GONE:
            _log.info(
                "a project went away during a replay", action="replay_project_gone", project_id=str(part.project_id)
            )
        except Exception as error:
            if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] not in _REFUSED:
                raise Unavailable(f"PostgreSQL refused: {error}") from error
            if len(settled) > 1:
                self._size = max(1, piece.read // 2)
                return
            _log.error("an event cannot be counted", action="replay_refused", event_id=str(settled[0].event.id))
            answer = failed("cannot_be_stored", None, type(error).__name__)
            await self._count(replay, part, piece, [Settled(settled[0].event, answer)])
        else:
            self._size = min(self._most, self._size * 2)
            self.counted += step.counted
            self.refused += step.refused

    async def _commit(self, replay: Replay, step: Advance, settled: Sequence[Settled]) -> None:
        effects = effects_of(settled, self._registry)
        sightings = effects.sightings()
        for sighting in sightings:
            sighting.logins = 0  # they were counted when their events settled, and carry no version
        additions = counted_again(effects)
        async with self._database.across_projects() as connection, connection.transaction():
            if await advance_across_projects(connection, replay.id, self._runner, step):
                await see_across_projects(connection, sightings)
                await add_across_projects(connection, additions, replay.id, replayed=True)
            elif not await is_runner_across_projects(connection, replay.id, self._runner):
                raise Conflict(f"replay {replay.id} was cancelled, or somebody else works on it")
