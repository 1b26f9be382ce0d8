"""Tells the live views what settled: a message per project, however many settlements it adds up."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

from agents.effects import Settled, settled_by_type
from boost_streams.errors import BrokerAway
from boost_streams.logs import get_logger
from boost_streams.outcomes import Processed
from boost_streams.publishing import Publisher
from boost_streams.records import SettledCount, SettledDeltas
from db.settlement import FirstAttempts

#: The shortest time between two messages on the same project (seconds). The first goes at once; what settles within
#: this time of it is added up, so that a backlog does not cost a message and a table's change per batch.
PAUSE_SECONDS = 0.25
#: How many counters may wait; beyond it they are dropped: a view may lose a little, a worker's memory may not grow.
MOST_WAITING = 20_000

_log = get_logger(__name__)

_Key = tuple[UUID, str, dt.datetime, bool]


class SettledNotices:
    """Sends `SettledDeltas`, without making anyone wait. What cannot be sent is logged and passed over."""

    def __init__(
        self, publisher: Publisher, now: Callable[[], dt.datetime], pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._publisher = publisher
        self._now = now
        self._pause_seconds = pause_seconds
        self._waiting: Counter[_Key] = Counter()
        self._sending: asyncio.Task[None] | None = None

    def tell(self, moved: Sequence[Settled], added_up: FirstAttempts | None = None) -> None:
        """Count what settled, in the minute of settling, and see to it that it is sent.

        Args:
            moved: The events with their outcomes.
            added_up: The same added up, where that was possible; it spares counting them.
        """
        if not moved:
            return
        if len(self._waiting) >= MOST_WAITING:
            _log.warning("notices were dropped", action="settled_notice", count=len(moved))
            return
        minute = self._now().replace(second=0, microsecond=0)
        counts = settled_by_type(added_up.additions) if added_up is not None else _count(moved)
        for (project_id, event_type, done), count in counts.items():
            self._waiting[project_id, event_type, minute, done] += count
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_until_none_waits())

    async def flush(self) -> None:
        """Send what waits, at once: for a worker that stops."""
        await self._send_waiting()

    async def _send_until_none_waits(self) -> None:
        while self._waiting:
            await self._send_waiting()
            await asyncio.sleep(self._pause_seconds)

    async def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, Counter()
        await asyncio.gather(*(self._send(deltas) for deltas in deltas_of(waiting, self._now())))

    async def _send(self, deltas: SettledDeltas) -> None:
        try:
            await self._publisher.send(deltas, key=deltas.project_id.bytes)
        except BrokerAway as error:
            project_id = str(deltas.project_id)
            _log.info("live views not told", action="settled_notice", project_id=project_id, error=error.message)


def _count(moved: Sequence[Settled]) -> Counter[tuple[UUID, str, bool]]:
    return Counter((one.event.project_id, one.event.event_type, isinstance(one.outcome, Processed)) for one in moved)


def deltas_of(counts: Counter[_Key], settled_at: dt.datetime) -> list[SettledDeltas]:
    """Write counters as records, one per project."""
    of_projects: dict[UUID, dict[tuple[str, dt.datetime], list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for (project_id, event_type, minute, done), count in counts.items():
        of_projects[project_id][event_type, minute][0 if done else 1] += count
    return [
        SettledDeltas(
            project_id,
            settled_at,
            [SettledCount(event_type, minute, *pair) for (event_type, minute), pair in sorted(of_project.items())],
        )
        for project_id, of_project in of_projects.items()
    ]
