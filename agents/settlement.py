"""Applies the outcomes of handlers: status, batch count, retries and effects, in one transaction.

Effects are added up for the events that moved and for no others, so that an event delivered ten times counts once.
This is the one place that maps an outcome to processed, failed or "try again".
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import msgspec

from agents.burials import Origins, burials_of, said
from agents.effects import Effects, Settled, effects_of
from agents.handlers import load_registry
from agents.registry import Handler, Registry
from agents.turns import in_turns
from boost_streams.errors import Unavailable
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_REDELIVERED, EVENTS_SETTLED, SETTLE_SECONDS
from boost_streams.outcomes import Failed, Processed, TryAgain
from db.burial import bury_across_projects, resolve_across_projects
from db.end_users import see_across_projects
from db.pool import Database
from db.rollups import add_across_projects, newest_cutover_across_projects
from db.settlement import FirstAttempts, Move, move_events_across_projects, settle_across_projects

#: Back-off of "try again" (seconds): doubled per attempt from the first, up to the longest, with jitter.
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 600.0
#: The longest pause while PostgreSQL is away (seconds): it goes on within five seconds of the server's return.
_LONGEST_PAUSE = 2.0
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_log = get_logger(__name__)


def within_limits(settled: Settled, handler: Handler, now: dt.datetime) -> Settled:
    """Make a "try again" that is beyond its handler's limits a failure.

    Attempts and age count from when somebody last asked for another try, or from the first delivery; the age from the
    first "try again", so that no event is too old because the broker was away.
    """
    event, outcome = settled.event, settled.outcome
    if not isinstance(outcome, TryAgain):
        return settled
    attempts = event.attempt - event.asked_attempt + 1
    if attempts >= handler.max_attempts:
        return Settled(event, Failed("too_many_attempts", None, f"{attempts} attempts, the last: {outcome.reason}"))
    age = 0.0 if event.trying_since is None else (now - event.trying_since).total_seconds()
    if age >= handler.max_age_seconds:
        return Settled(event, Failed("tried_too_long", None, f"tried for {age:.0f} s, the last: {outcome.reason}"))
    return settled


def move_of(settled: Settled, jitter: Callable[[], float]) -> Move:
    """Map an outcome to where its event goes. `jitter` gives a number in [0, 1)."""
    event, outcome = settled.event, settled.outcome
    if isinstance(outcome, TryAgain):
        pause = outcome.after_seconds
        if pause is None:
            doublings = min(event.attempt - event.asked_attempt, 32)
            pause = min(FIRST_RETRY_SECONDS * 2**doublings, LONGEST_RETRY_SECONDS) * (0.5 + jitter())
        reason = said(outcome.reason)
        return Move(event.project_id, event.id, event.attempt, "pending", retry_after=pause, reason=reason)
    if isinstance(outcome, Failed):
        return Move(event.project_id, event.id, event.attempt, "failed", error=_error_of(outcome))
    return Move(event.project_id, event.id, event.attempt, "processed")


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one call settles. `added_up` holds for the whole batch only, so parts of it have none."""

    family: str
    settled: list[Settled]
    origins: Origins
    added_up: FirstAttempts | None = None

    def of(self, part: list[Settled]) -> _Batch:
        return _Batch(self.family, part, self.origins)


class Settlement:
    """Settles batches. `jitter` and `now` are passed in so that a test can hold them still; `registry` has the limits
    and names of handlers, by default of all that there are.
    """

    def __init__(
        self,
        database: Database,
        jitter: Callable[[], float] = random.random,
        *,
        registry: Registry | None = None,
        now: Callable[[], dt.datetime] = _utc_now,
    ) -> None:
        self._database = database
        self._jitter = jitter
        self._registry = registry or load_registry()
        self._now = now

    async def settle(
        self,
        family: str,
        batch: Sequence[Settled],
        added_up: FirstAttempts | None = None,
        origins: Origins | None = None,
    ) -> list[Settled]:
        """Settle a batch, waiting while PostgreSQL is away; return the events that this call moved.

        A row that PostgreSQL refuses fails its own event; its neighbours settle. `added_up` is what `add_up` said of
        the batch, for a caller that had time to ask before; `origins` says where its events stood on the broker.
        """
        pause = 0.05
        while True:
            try:
                return await self._settle(_Batch(family, list(batch), origins or Origins(), added_up))
            except Unavailable as error:
                _log.warning("settling waits for PostgreSQL", action="settle_wait", handler=family, error=error.message)
            except _CONFLICTS as error:
                _log.info("settling tries again", action="settle_conflict", handler=family, error=type(error).__name__)
            await asyncio.sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _settle(self, batch: _Batch) -> list[Settled]:
        try:
            return await self._settle_together(batch)
        except _CONFLICTS:
            raise
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] not in ("22", "23", "54"):
                raise Unavailable(f"PostgreSQL refused: {error}") from error
            return await self._settle_halves(batch, "cannot_be_stored", error)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception as error:
            # An effect that cannot be added up or written: the handler's fault, and its event's alone.
            return await self._settle_halves(batch, "handler_answer", error)

    async def _settle_halves(self, batch: _Batch, code: str, error: Exception) -> list[Settled]:
        if len(batch.settled) == 1:
            return await self._fail_or_forget(batch, code, error)
        middle = len(batch.settled) // 2
        halves = batch.settled[:middle], batch.settled[middle:]
        return [settled for half in halves for settled in await self._settle(batch.of(half))]

    async def _fail_or_forget(self, batch: _Batch, code: str, error: Exception) -> list[Settled]:
        (settled,) = batch.settled
        _log.error(
            "an event cannot be settled",
            action="settle_refused",
            handler=batch.family,
            event_id=str(settled.event.id),
            error=type(error).__name__,
        )
        if isinstance(settled.outcome, Failed):
            # Its project went away in between, or it cannot even fail: it stays with PostgreSQL and the sweeper.
            return []
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return await self._settle(batch.of([Settled(settled.event, Failed(code, None, reason))]))

    async def _settle_together(self, batch: _Batch) -> list[Settled]:
        started = time.perf_counter()
        first = batch.added_up or first_attempts_of(batch.settled, self._registry)
        if first is not None:
            burials = burials_of(batch.settled, self._registry, batch.origins) if first.errors else ()
            async with self._database.across_projects() as connection:
                if await settle_across_projects(connection, first, burials):
                    _observe(batch.family, started, len(batch.settled), failed=len(first.errors))
                    return batch.settled
        return await self._settle_one_by_one(batch, started)

    async def _settle_one_by_one(self, batch: _Batch, started: float) -> list[Settled]:
        """Settle events some of which may have moved before, or are to be tried again: effects after the move."""
        now = self._now()
        handler_of = self._registry.handler_of
        decided = [within_limits(settled, handler_of(settled.event.event_type), now) for settled in batch.settled]
        async with self._database.across_projects() as connection, connection.transaction():
            cutover = await newest_cutover_across_projects(connection)
            moves = [move_of(one, self._jitter) for one in decided]
            result = await move_events_across_projects(connection, moves, cutover)
            moved = _once_each(one for one in decided if (one.event.id, one.event.attempt) in result.attempts)
            terminal = [settled for settled in moved if not isinstance(settled.outcome, TryAgain)]
            burials = burials_of(terminal, self._registry, batch.origins)
            await bury_across_projects(connection, burials)
            await resolve_across_projects(connection, _replayed(terminal, result.were_failed))
            effects = effects_of(terminal, self._registry, result.were_failed)
            await see_across_projects(connection, effects.sightings())
            await add_across_projects(connection, effects.additions(), cutover)
        _observe(
            batch.family,
            started,
            len(terminal),
            failed=len(burials),
            pending=len(moved) - len(terminal),
            redelivered=len(decided) - len(moved),
        )
        return terminal


async def add_up(batch: Sequence[Settled], registry: Registry) -> FirstAttempts | None:
    """Do what `first_attempts_of` does, in short turns of the event loop.

    Returns:
        None as well when an effect cannot be added up: settling finds out whose.
    """
    first = _FirstAttempts(registry)
    try:
        async for part in in_turns(batch):
            if not first.add(part):
                return None
        return first.done()
    except Exception as error:
        _log.warning("effects cannot be added up", action="settle_refused", error=type(error).__name__)
        return None


def first_attempts_of(batch: Sequence[Settled], registry: Registry) -> FirstAttempts | None:
    """Return what settles a batch in one statement; None when there is a retry among it, or an event twice."""
    first = _FirstAttempts(registry)
    return first.done() if first.add(batch) else None


class _FirstAttempts:
    """What settles a batch in one statement, a part of it at a time."""

    def __init__(self, registry: Registry) -> None:
        self._projects: dict[int, UUID] = {}
        self._ids: dict[int, list[UUID]] = defaultdict(list)
        self._errors: dict[UUID, bytes] = {}
        self._effects = Effects(registry)

    def add(self, part: Sequence[Settled]) -> bool:
        """Add a few events; False when one of them is not settled that way."""
        for settled in part:
            event, outcome = settled.event, settled.outcome
            if event.attempt:
                return False
            if not isinstance(outcome, Processed):
                if not isinstance(outcome, Failed):
                    return False
                self._errors[event.id] = _error_of(outcome)
            project = event.project_id.int
            self._projects[project] = event.project_id
            self._ids[project].append(event.id)
        self._effects.add(part)
        return True

    def done(self) -> FirstAttempts | None:
        """Return it; None when an event came twice."""
        if any(len({event_id.int for event_id in ids}) < len(ids) for ids in self._ids.values()):
            return None
        ids = {self._projects[project]: of_project for project, of_project in self._ids.items()}
        return FirstAttempts(ids, self._errors, self._effects.sightings(), self._effects.additions())


def _error_of(outcome: Failed) -> bytes:
    field = None if outcome.field is None else said(outcome.field)
    return msgspec.json.encode({"code": said(outcome.code), "field": field, "message": said(outcome.message)})


def _replayed(terminal: Sequence[Settled], were_failed: Collection[UUID]) -> list[tuple[UUID, UUID]]:
    """Return the events (project, id) that had failed before and are processed now."""
    return [
        (settled.event.project_id, settled.event.id)
        for settled in terminal
        if settled.event.id in were_failed and isinstance(settled.outcome, Processed)
    ]


def _observe(
    family: str, started: float, terminal: int, *, failed: int, pending: int = 0, redelivered: int = 0
) -> None:
    SETTLE_SECONDS.observe(time.perf_counter() - started)
    EVENTS_REDELIVERED.labels(family=family).inc(redelivered)
    for status, count in (("processed", terminal - failed), ("failed", failed), ("pending", pending)):
        EVENTS_SETTLED.labels(family=family, status=status).inc(count)


def _once_each(batch: object) -> list[Settled]:
    return list({settled.event.id: settled for settled in batch}.values())  # type: ignore[attr-defined]
