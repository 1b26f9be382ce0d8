"""Decides which events are handled in the worker, and which apart from it: those that may have killed one before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from agents.calling import outcomes
from agents.effects import Settled
from agents.isolated import CannotIsolate, IsolatedHandlers
from agents.registry import Registry
from agents.services import HandlerServices
from agents.streams import Taken
from agents.takeovers import Takeovers
from agents.unreadable import Unreadable
from boost_streams.logs import get_logger
from boost_streams.records import EventRecord, Malformed, UnreadHandlerBatch, event_of_bytes

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
        bury: Callable[[Malformed], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._services = services
        self._takeovers = takeovers
        self._isolated = isolated
        #: Makes a dead letter of an event that cannot be read.
        self._bury = bury
        self._clock = clock
        self._suspects: dict[str, float] = {}

    async def outcomes(self, taken: Sequence[Taken]) -> list[Settled]:
        """Return what became of each event of these messages; whatever goes wrong with one costs that one only."""
        careful = await self._takeovers.careful(taken)
        unreadable = Unreadable(taken)
        here, apart = self._divide(taken, unreadable, careful=careful)
        settled = await outcomes(self._registry, here, self._services, unreadable.add) if here else []
        if apart:
            settled += await self._apart(apart)
        for malformed in unreadable.malformed():
            await self._bury(malformed)
        return settled

    def _divide(
        self, taken: Sequence[Taken], unreadable: Unreadable, *, careful: bool
    ) -> tuple[list[msgspec.Raw], list[EventRecord]]:
        """Return the events for this process, and those to be run apart from it."""
        here: list[msgspec.Raw] = []
        for_apart: list[msgspec.Raw] = []
        for message in taken:
            if isinstance(message.value, UnreadHandlerBatch):
                (for_apart if careful or message.value.suspect else here).extend(message.value.events)
        apart = [record for _, record in _read(for_apart, unreadable)]
        if not self._suspects:
            return here, apart
        now = self._clock()
        self._suspects = {name: until for name, until in self._suspects.items() if until > now}
        rest: list[msgspec.Raw] = []
        for event, record in _read(here, unreadable):
            if self._registry.handler_of(record.event_type).name in self._suspects:
                apart.append(record)
            else:
                rest.append(event)
        return rest, apart

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


def _read(events: Sequence[msgspec.Raw], unreadable: Unreadable) -> Iterator[tuple[msgspec.Raw, EventRecord]]:
    """Yield events with their records; those that cannot be read are noted."""
    for event in events:
        try:
            yield event, event_of_bytes(event)
        except msgspec.DecodeError as error:
            unreadable.add(event, error)
