"""Applies the outcomes of handlers: status, batch count, retries and effects, in one transaction.

Effects are added up for the events that moved and for no others, so that an event delivered ten times counts once.
This is the one place that maps an outcome to processed, failed or "try again".
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

import asyncpg
import msgspec

from agents.effects import Settled, additions_of, sightings_of
from boost_streams.errors import Unavailable
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_REDELIVERED, EVENTS_SETTLED, SETTLE_SECONDS
from boost_streams.outcomes import Failed, Processed, TryAgain
from db.end_users import see_across_projects
from db.pool import Database
from db.rollups import add_across_projects
from db.settlement import FirstAttempts, Move, move_events_across_projects, settle_across_projects

#: After so many tries by a handler an event fails for good.
MOST_ATTEMPTS = 12
#: Back-off of "try again" (seconds): doubled per attempt from the first, up to the longest, with jitter.
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 600.0
#: The longest pause while PostgreSQL is away (seconds): it goes on within five seconds of the server's return.
_LONGEST_PAUSE = 2.0
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_log = get_logger(__name__)


def move_of(settled: Settled, jitter: Callable[[], float]) -> Move:
    """Map an outcome to where its event goes. `jitter` gives a number in [0, 1)."""
    event, outcome = settled.event, settled.outcome
    if isinstance(outcome, TryAgain):
        if event.attempt + 1 >= MOST_ATTEMPTS:
            outcome = Failed("too_many_attempts", None, f"{event.attempt + 1} attempts, the last: {outcome.reason}")
        else:
            pause = outcome.after_seconds
            if pause is None:
                pause = min(FIRST_RETRY_SECONDS * 2**event.attempt, LONGEST_RETRY_SECONDS) * (0.5 + jitter())
            return Move(event.project_id, event.id, event.attempt, "pending", retry_after=pause, reason=outcome.reason)
    if isinstance(outcome, Failed):
        return Move(event.project_id, event.id, event.attempt, "failed", error=_error_of(outcome))
    return Move(event.project_id, event.id, event.attempt, "processed")


class Settlement:
    """Settles batches. `jitter` is passed in so that a test can hold it still."""

    def __init__(self, database: Database, jitter: Callable[[], float] = random.random) -> None:
        self._database = database
        self._jitter = jitter

    async def settle(self, family: str, batch: Sequence[Settled]) -> list[Settled]:
        """Settle a batch, waiting while PostgreSQL is away; return the events that this call moved.

        A row that PostgreSQL refuses fails its own event; its neighbours settle.
        """
        pause = 0.05
        while True:
            try:
                return await self._settle(family, list(batch))
            except Unavailable as error:
                _log.warning("settling waits for PostgreSQL", action="settle_wait", handler=family, error=error.message)
            except _CONFLICTS as error:
                _log.info("settling tries again", action="settle_conflict", handler=family, error=type(error).__name__)
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _settle(self, family: str, batch: list[Settled]) -> list[Settled]:
        try:
            return await self._settle_together(family, batch)
        except _CONFLICTS:
            raise
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] not in ("22", "23", "54"):
                raise Unavailable(f"PostgreSQL refused: {error}") from error
            return await self._settle_halves(family, batch, "cannot_be_stored", error)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception as error:
            # An effect that cannot be added up or written: the handler's fault, and its event's alone.
            return await self._settle_halves(family, batch, "handler_answer", error)

    async def _settle_halves(self, family: str, batch: list[Settled], code: str, error: Exception) -> list[Settled]:
        if len(batch) == 1:
            return await self._fail_or_forget(family, batch[0], code, error)
        middle = len(batch) // 2
        return [*await self._settle(family, batch[:middle]), *await self._settle(family, batch[middle:])]

    async def _fail_or_forget(self, family: str, settled: Settled, code: str, error: Exception) -> list[Settled]:
        _log.error(
            "an event cannot be settled",
            action="settle_refused",
            handler=family,
            event_id=str(settled.event.id),
            error=type(error).__name__,
        )
        if isinstance(settled.outcome, Failed):
            # Its project went away in between, or it cannot even fail: it stays with PostgreSQL and the sweeper.
            return []
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return await self._settle(family, [Settled(settled.event, Failed(code, None, reason))])

    async def _settle_together(self, family: str, batch: list[Settled]) -> list[Settled]:
        started = time.perf_counter()
        first = first_attempts_of(batch)
        if first is not None:
            async with self._database.across_projects() as connection:
                if await settle_across_projects(connection, first):
                    _observe(family, started, len(batch), failed=len(first.errors))
                    return batch
        return await self._settle_one_by_one(family, batch, started)

    async def _settle_one_by_one(self, family: str, batch: list[Settled], started: float) -> list[Settled]:
        """Settle events some of which may have moved before, or are to be tried again: effects after the move."""
        moves = [move_of(settled, self._jitter) for settled in batch]
        statuses = {move.event_id: move.status for move in moves}
        async with self._database.across_projects() as connection, connection.transaction():
            result = await move_events_across_projects(connection, moves)
            moved = _once_each(settled for settled in batch if settled.event.id in result.ids)
            terminal = [settled for settled in moved if statuses[settled.event.id] != "pending"]
            await see_across_projects(connection, sightings_of(terminal))
            await add_across_projects(connection, additions_of(terminal, result.were_failed))
        failures = sum(1 for settled in terminal if statuses[settled.event.id] == "failed")
        _observe(
            family,
            started,
            len(terminal),
            failed=failures,
            pending=len(moved) - len(terminal),
            redelivered=len(batch) - len(moved),
        )
        return [
            settled
            if statuses[settled.event.id] != "failed" or isinstance(settled.outcome, Failed)
            else Settled(settled.event, Failed("too_many_attempts", None, "gave up"))
            for settled in terminal
        ]


def first_attempts_of(batch: Sequence[Settled]) -> FirstAttempts | None:
    """Return what settles a batch in one statement; None when there is a retry among it, or an event twice."""
    ids: dict[UUID, list[UUID]] = defaultdict(list)
    errors: dict[UUID, bytes] = {}
    for settled in batch:
        event, outcome = settled.event, settled.outcome
        if event.attempt:
            return None
        if not isinstance(outcome, Processed):
            if not isinstance(outcome, Failed):
                return None
            errors[event.id] = _error_of(outcome)
        ids[event.project_id].append(event.id)
    if any(len(set(of_project)) < len(of_project) for of_project in ids.values()):
        return None
    return FirstAttempts(ids, errors, sightings_of(batch), additions_of(batch))


def _error_of(outcome: Failed) -> bytes:
    return msgspec.json.encode({"code": outcome.code, "field": outcome.field, "message": outcome.message})


def _observe(
    family: str, started: float, terminal: int, *, failed: int, pending: int = 0, redelivered: int = 0
) -> None:
    SETTLE_SECONDS.observe(time.perf_counter() - started)
    EVENTS_REDELIVERED.labels(family=family).inc(redelivered)
    for status, count in (("processed", terminal - failed), ("failed", failed), ("pending", pending)):
        EVENTS_SETTLED.labels(family=family, status=status).inc(count)


def _once_each(batch: object) -> list[Settled]:
    return list({settled.event.id: settled for settled in batch}.values())  # type: ignore[attr-defined]
