"""Decides which events are handled in the worker, and which apart from it: those that may have killed one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from agents.calling import outcomes
from agents.effects import Settled
from agents.isolated import CannotIsolate, IsolatedHandlers
from agents.registry import Registry
from agents.services import HandlerServices
from agents.streams import Taken
from agents.takeovers import Takeovers
from boost_streams.logs import get_logger
from boost_streams.records import EventRecord, HandlerBatch

#: How long a handler is run apart after one of its events killed a process (seconds): what sent one may send more.
SUSPECT_SECONDS = 600.0
#: How often starting the process is tried, and the pause between two tries (seconds).
_STARTS = 3
_START_PAUSE = 1.0

_log = get_logger(__name__)


class Care:
    """Asks the handlers of one family about events, each in the place that fits it."""

    def __init__(
        self,
        registry: Registry,
        services: HandlerServices,
        takeovers: Takeovers,
        isolated: IsolatedHandlers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._services = services
        self._takeovers = takeovers
        self._isolated = isolated
        self._clock = clock
        self._suspects: dict[str, float] = {}

    async def outcomes(self, taken: Sequence[Taken]) -> list[Settled]:
        """Return what became of each event of these messages; whatever goes wrong with one costs that one only."""
        careful = await self._takeovers.careful(taken)
        here, apart = self._divide(taken, careful=careful)
        settled = await outcomes(self._registry, here, self._services) if here else []
        if apart:
            settled += await self._apart(apart)
        return settled

    def _divide(self, taken: Sequence[Taken], *, careful: bool) -> tuple[list[EventRecord], list[EventRecord]]:
        """Return the events for this process, and those to be run apart from it."""
        records: list[EventRecord] = []
        apart: list[EventRecord] = []
        for message in taken:
            if isinstance(message.value, HandlerBatch):
                (apart if careful or message.value.suspect else records).extend(message.value.events)
        if not self._suspects:
            return records, apart
        now = self._clock()
        self._suspects = {name: until for name, until in self._suspects.items() if until > now}
        here: list[EventRecord] = []
        for one in records:
            (apart if self._registry.handler_of(one.event_type).name in self._suspects else here).append(one)
        return here, apart

    async def _apart(self, records: Sequence[EventRecord]) -> list[Settled]:
        for _ in range(_STARTS):
            try:
                settled, killers = await self._isolated.outcomes(records)
            except CannotIsolate as error:
                _log.error("handlers cannot be run apart", action="isolate", error=str(error))
                await asyncio.sleep(_START_PAUSE)
                continue
            until = self._clock() + SUSPECT_SECONDS
            self._suspects.update((self._registry.handler_of(one.event.event_type).name, until) for one in killers)
            return settled
        # No event's fault, and waiting helps nobody: they are handled as all others are.
        return await outcomes(self._registry, records, self._services)
