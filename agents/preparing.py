"""Asks a handler to prepare, within its deadline, and finds out which events it fails for.

What raises or answers too late for a batch is asked again for parts of it, side by side, down to the events that it
cannot prepare for; the others have lost a little time and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agents.registry import Handler
from boost_streams.events import Event
from boost_streams.logs import frames_of, get_logger

#: In how many parts what failed is asked again: 2,000 events are narrowed down to one in three steps.
PARTS = 16
#: How many deadlines of one call narrowing may take in all; what is not found out by then is tried again later.
MOST_DEADLINES = 6

_log = get_logger(__name__)


@dataclass(slots=True)
class Prepared:
    """What `prepare` answered, by event id, and why there is no answer for the events that it failed for."""

    answers: dict[UUID, Any] = field(default_factory=dict)
    refused: dict[UUID, str] = field(default_factory=dict)


async def prepare(handler: Handler, events: Sequence[Event], services: Any) -> Prepared:
    """Prepare for these events; never raises, and takes no longer than `MOST_DEADLINES` deadlines of the handler."""
    narrowing = _Narrowing(handler, services)
    await narrowing.ask(events)
    answers = narrowing.prepared.answers
    refused = {event_id: why for event_id, why in narrowing.prepared.refused.items() if event_id not in answers}
    if refused:
        _log.warning(
            "a handler could not prepare",
            action="handler_prepare",
            handler=handler.name,
            count=len(refused),
            error=narrowing.frames or next(iter(refused.values())),
        )
    return Prepared(answers, refused)


class _Narrowing:
    """One batch being prepared."""

    def __init__(self, handler: Handler, services: Any) -> None:
        self._handler = handler
        self._services = services
        self._limit = asyncio.Semaphore(PARTS)
        self._ends = asyncio.get_running_loop().time() + MOST_DEADLINES * handler.prepare_seconds
        self.prepared = Prepared()
        self.frames = ""

    async def ask(self, events: Sequence[Event]) -> None:
        """Ask for all of these at once; if that fails, for parts of them."""
        if reason := await self._call(events):
            await self._narrow(events, reason)

    async def _narrow(self, events: Sequence[Event], reason: str) -> None:
        """Ask for parts of events for which asking failed."""
        if len(events) == 1:
            self.prepared.refused[events[0].id] = reason
            return
        parts = _parts_of(events)
        reasons = await asyncio.gather(*(self._call(part) for part in parts))
        if all(reasons) and not await self._some_event_passes(parts):
            # Nothing passes, large or small: it is no event's doing, and asking for each would only take longer.
            self.prepared.refused.update((event.id, reason) for event in events)
            return
        again = [(part, why) for part, why in zip(parts, reasons, strict=True) if why]
        await asyncio.gather(*(self._narrow(part, why) for part, why in again))

    async def _some_event_passes(self, parts: Sequence[Sequence[Event]]) -> bool:
        singles = [part[:1] for part in parts if len(part) > 1]
        return not all(await asyncio.gather(*(self._call(single) for single in singles)))

    async def _call(self, events: Sequence[Event]) -> str | None:
        """Call `prepare` and keep what it answers; return why it did not."""
        async with self._limit:
            seconds = min(self._handler.prepare_seconds, self._ends - asyncio.get_running_loop().time())
            if seconds <= 0:
                return "prepare: no time was left to ask for this event alone"
            task = asyncio.ensure_future(call_prepare(self._handler, events, self._services))
            try:
                await asyncio.wait({task}, timeout=seconds)
            finally:
                # Not awaited: what does not answer in time may not heed its cancellation either.
                task.cancel()
                task.add_done_callback(_look_at)
        if not task.done():
            return f"prepare: no answer within {self._handler.prepare_seconds:g} s"
        if task.cancelled():
            return "prepare: it cancelled itself"
        answer = task.result()
        if isinstance(answer, BaseException):
            self.frames = self.frames or frames_of(answer)
            return f"prepare: {type(answer).__name__}: {answer}"
        self.prepared.answers.update(answer)
        return None


async def call_prepare(handler: Handler, events: Sequence[Event], services: Any) -> Mapping[UUID, Any] | BaseException:
    """Call `prepare`; what it raises, or answers that is no mapping, comes back as an exception."""
    assert handler.prepare is not None
    try:
        answer: object = await handler.prepare(events, services)
    except (Exception, SystemExit) as error:
        return error
    if not isinstance(answer, Mapping):
        return TypeError(f"prepare of {handler.name} answered {type(answer).__name__}, not a mapping by event id")
    return answer


def _look_at(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _parts_of(events: Sequence[Event]) -> list[Sequence[Event]]:
    size = -(-len(events) // PARTS)
    return [events[start : start + size] for start in range(0, len(events), size)]
