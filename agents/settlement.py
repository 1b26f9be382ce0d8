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
from decimal import Decimal
from uuid import UUID

import asyncpg
import msgspec

from boost_streams.errors import Unavailable
from boost_streams.events import Event
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_REDELIVERED, EVENTS_SETTLED, SETTLE_SECONDS
from boost_streams.outcomes import Count, Failed, Outcome, Processed, TryAgain, bucket_start
from boost_streams.records import SettledCount, SettledDeltas
from db.end_users import Sighting, see_across_projects, trait_version
from db.pool import Database
from db.rollups import RollupKey, add_across_projects
from db.settlement import Move, move_events_across_projects

#: After so many tries by a handler an event fails for good.
MOST_ATTEMPTS = 12
#: Back-off of "try again" (seconds): doubled per attempt from the first, up to the longest, with jitter.
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 600.0
#: The longest pause while PostgreSQL is away (seconds): it goes on within five seconds of the server's return.
_LONGEST_PAUSE = 2.0
_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_PER_HOUR = "events_per_hour"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settled:
    """One event with what its handler said of it."""

    event: Event
    outcome: Outcome


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
        error = msgspec.json.encode({"code": outcome.code, "field": outcome.field, "message": outcome.message})
        return Move(event.project_id, event.id, event.attempt, "failed", error=error)
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
        moves = [move_of(settled, self._jitter) for settled in batch]
        statuses = {move.event_id: move.status for move in moves}
        async with self._database.across_projects() as connection, connection.transaction():
            result = await move_events_across_projects(connection, moves)
            moved = _once_each(settled for settled in batch if settled.event.id in result.ids)
            terminal = [settled for settled in moved if statuses[settled.event.id] != "pending"]
            await see_across_projects(connection, sightings_of(terminal))
            await add_across_projects(connection, additions_of(terminal, result.were_failed))
        SETTLE_SECONDS.observe(time.perf_counter() - started)
        EVENTS_REDELIVERED.labels(family=family).inc(len(batch) - len(moved))
        for status in ("processed", "failed", "pending"):
            EVENTS_SETTLED.labels(family=family, status=status).inc(
                sum(1 for settled in moved if statuses[settled.event.id] == status)
            )
        return [
            settled
            if statuses[settled.event.id] != "failed" or isinstance(settled.outcome, Failed)
            else Settled(settled.event, Failed("too_many_attempts", None, "gave up"))
            for settled in terminal
        ]


def _once_each(batch: object) -> list[Settled]:
    return list({settled.event.id: settled for settled in batch}.values())  # type: ignore[attr-defined]


def additions_of(batch: Sequence[Settled], were_failed: Collection[UUID] = ()) -> dict[RollupKey, tuple[int, Decimal]]:
    """Add up the counters of a batch: what its handlers said, and the per-hour totals by type and status.

    An event in `were_failed` was counted as failed before it was retried: that is taken back.
    """
    totals: dict[RollupKey, tuple[int, Decimal]] = {}

    def add(key: RollupKey, count: int, amount: Decimal) -> None:
        before = totals.get(key, (0, Decimal(0)))
        totals[key] = (before[0] + count, before[1] + amount)

    for settled in batch:
        event, outcome = settled.event, settled.outcome
        status = "processed" if isinstance(outcome, Processed) else "failed"
        hour = bucket_start(event.occurred_at, "hour")
        add(RollupKey(event.project_id, _PER_HOUR, hour, (event.event_type, status)), 1, Decimal(0))
        if event.id in were_failed:
            add(RollupKey(event.project_id, _PER_HOUR, hour, (event.event_type, "failed")), -1, Decimal(0))
        for effect in outcome.effects if isinstance(outcome, Processed) else ():
            if isinstance(effect, Count):
                start = bucket_start(event.occurred_at, effect.bucket)
                add(RollupKey(event.project_id, effect.metric, start, effect.dimensions), effect.count, effect.amount)
    return totals


def sightings_of(batch: Sequence[Settled]) -> list[Sighting]:
    """Gather what a batch says about end users, one sighting per user."""
    seen: dict[tuple[UUID, str], Sighting] = {}
    for settled in batch:
        event, outcome = settled.event, settled.outcome
        for effect in outcome.effects if isinstance(outcome, Processed) else ():
            if isinstance(effect, Count):
                continue
            when = event.occurred_at
            sighting = seen.setdefault(
                (event.project_id, effect.user_id), Sighting(event.project_id, effect.user_id, when, when)
            )
            sighting.first_seen_at = min(sighting.first_seen_at, when)
            sighting.last_seen_at = max(sighting.last_seen_at, when)
            if effect.signed_up:
                sighting.signed_up_at = min(sighting.signed_up_at or when, when)
            sighting.logins += effect.logged_in
            version = trait_version(when, event.id)
            for name, value in effect.traits.items():
                sighting.set_trait(name, value, version)
    return list(seen.values())


def deltas_of(batch: Sequence[Settled], settled_at: dt.datetime) -> list[SettledDeltas]:
    """Count what settled per project and type, in the minute of settling: one record per project."""
    minute = settled_at.replace(second=0, microsecond=0)
    counts: dict[UUID, dict[tuple[str, dt.datetime], list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for settled in batch:
        pair = counts[settled.event.project_id][settled.event.event_type, minute]
        pair[0 if isinstance(settled.outcome, Processed) else 1] += 1
    return [
        SettledDeltas(
            project_id,
            settled_at,
            [SettledCount(event_type, minute, *pair) for (event_type, minute), pair in sorted(of_project.items())],
        )
        for project_id, of_project in counts.items()
    ]
