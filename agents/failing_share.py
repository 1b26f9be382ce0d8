"""Which share of a handler's events fails: a handler that fails most events of most projects is broken, not its data.

A tenant that sends rubbish must not stop the others, however much it sends. So each project has one voice, its own
share, and one project alone stops nothing unless there is no other (docs/adr/0015).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from agents.effects import Settled
from agents.registry import Registry
from boost_streams.outcomes import Failed, TryAgain
from db.settlement import FirstAttempts

#: Over how long the share is taken (seconds).
WINDOW_SECONDS = 60.0
#: A project has a part in it from so many failing events on.
LEAST_OF_A_PROJECT = 10


@dataclass(slots=True)
class _Count:
    total: int = 0
    failing: int = 0


_Counts = dict[str, dict[UUID, _Count]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A handler whose share is over the limit. `projects` is how many take part in that."""

    handler: str
    share: float
    failing: int
    projects: int


class FailingShare:
    """The failing share of each handler of one family, as this worker sees it."""

    def __init__(
        self,
        family: str,
        registry: Registry,
        *,
        limit: float,
        least: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._handlers = [handler.name for handler in registry.handlers if handler.family == family]
        self._limit = limit
        self._least = least
        self._clock = clock
        self._window: deque[tuple[float, _Counts]] = deque()

    def observe(self, settled: Sequence[Settled], added_up: FirstAttempts | None) -> Verdict | None:
        """Count what handlers said of a batch; return the handler that fails too many, if there is one.

        Args:
            settled: The events with their outcomes.
            added_up: The same added up, where that was possible; it spares counting events by project.
        """
        now = self._clock()
        while self._window and self._window[0][0] <= now - WINDOW_SECONDS:
            self._window.popleft()
        none_failed = added_up is not None and not added_up.errors
        failing = [] if none_failed else [one for one in settled if type(one.outcome) is Failed]
        self._count(now, self._counts_of(settled, failing, added_up))
        for handler in {self._handler_of(one) for one in failing}:
            if verdict := self._verdict(handler):
                return verdict
        return None

    def reset(self) -> None:
        """Forget what was counted."""
        self._window.clear()

    def _handler_of(self, one: Settled) -> str:
        return self._registry.handler_of(one.event.event_type).name

    def _counts_of(
        self, settled: Sequence[Settled], failing: Sequence[Settled], added_up: FirstAttempts | None
    ) -> _Counts:
        counts: _Counts = {}
        if added_up is not None and len(self._handlers) == 1:
            counts[self._handlers[0]] = {
                project_id: _Count(len(ids)) for project_id, ids in added_up.ids_of_projects.items()
            }
        else:
            for one in settled:
                if type(one.outcome) is not TryAgain:
                    _of(counts, self._handler_of(one), one.event.project_id).total += 1
        for one in failing:
            _of(counts, self._handler_of(one), one.event.project_id).failing += 1
        return counts

    def _count(self, now: float, counts: _Counts) -> None:
        """Add to the window, a second at a time: small batches are many."""
        if not self._window or int(self._window[-1][0]) != int(now):
            self._window.append((now, counts))
            return
        for handler, projects in counts.items():
            for project_id, count in projects.items():
                known = _of(self._window[-1][1], handler, project_id)
                known.total += count.total
                known.failing += count.failing

    def _verdict(self, handler: str) -> Verdict | None:
        projects = self._totals(handler)
        failing = sum(count.failing for count in projects.values())
        if failing < self._least:
            return None
        share = sum(count.failing / max(count.total, 1) for count in projects.values()) / len(projects)
        if share <= self._limit:
            return None
        taking_part = sum(
            count.failing >= LEAST_OF_A_PROJECT and count.failing > self._limit * count.total
            for count in projects.values()
        )
        return Verdict(handler, share, failing, taking_part)

    def _totals(self, handler: str) -> Mapping[UUID, _Count]:
        totals: dict[UUID, _Count] = {}
        for _, counts in self._window:
            for project_id, count in counts.get(handler, {}).items():
                total = totals.setdefault(project_id, _Count())
                total.total += count.total
                total.failing += count.failing
        return totals


def _of(counts: _Counts, handler: str, project_id: UUID) -> _Count:
    return counts.setdefault(handler, {}).setdefault(project_id, _Count())
