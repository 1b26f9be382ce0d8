"""The one loop that every handler agent runs: take, handle, settle, acknowledge."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from agents.burials import Origins
from agents.dead_letters import DeadLetters
from agents.effects import Settled
from agents.notices import SettledNotices
from agents.progress import ConsumerProgress
from agents.registry import Handler, Registry
from agents.settlement import Settlement, add_up
from agents.streams import Taken, acknowledge, in_two_stages, ready_batches
from boost_streams.events import Event
from boost_streams.logs import frames_of, get_logger
from boost_streams.outcomes import Failed, Outcome, Processed, TryAgain, failed, try_again
from boost_streams.records import DeadLetter, EventRecord, HandlerBatch, Malformed
from db.burial import Origin
from db.settlement import FirstAttempts

#: About how many events are handled and settled together, and how long after the last time (seconds) under load.
MOST_EVENTS = 2000
PACE_SECONDS = 0.02
#: How many dead letters may be on their way to the broker; beyond it they are dropped.
MOST_LETTERS = 64

_log = get_logger(__name__)
_NOTHING: Mapping[UUID, Any] = {}
_Handled = tuple[list[Settled], FirstAttempts | None]
_OUTCOMES = (Processed, Failed, TryAgain)


class HandlerLoop:
    """Runs the handlers of one family over its topic."""

    def __init__(
        self,
        family: str,
        registry: Registry,
        settlement: Settlement,
        progress: ConsumerProgress,
        dead_letters: DeadLetters,
        notices: SettledNotices,
        services: Any,
        now: Callable[[], dt.datetime],
    ) -> None:
        self.family = family
        self._registry = registry
        self._settlement = settlement
        self._progress = progress
        self._dead_letters = dead_letters
        self._notices = notices
        self._services = services
        self._now = now
        self._letters: set[asyncio.Task[None]] = set()

    async def run(self, stream: Any) -> None:
        """Handle until cancelled."""
        weight = lambda value: len(getattr(value, "events", ()))  # noqa: E731
        batches = ready_batches(stream, self._progress, most=MOST_EVENTS, weight=weight, pace=PACE_SECONDS)
        await in_two_stages(batches, self.handle, self._settle_and_acknowledge)

    async def handle(self, taken: Sequence[Taken]) -> _Handled:
        """Handle the events of these messages and add up; messages that cannot be read become dead letters."""
        records: list[EventRecord] = []
        for message in taken:
            if isinstance(message.value, Malformed):
                await self._dead_letters.malformed(message.value)
            elif isinstance(message.value, HandlerBatch):
                records.extend(message.value.events)
        settled = await self.outcomes(records)
        return settled, add_up(settled)

    async def _settle_and_acknowledge(self, taken: list[Taken], handled: _Handled) -> None:
        settled, added_up = handled
        if settled:
            origins = Origins(taken)
            self._tell(await self._settlement.settle(self.family, settled, added_up, origins), origins)
        await acknowledge(taken, self._progress)

    async def outcomes(self, records: Sequence[EventRecord]) -> list[Settled]:
        """Ask the handlers about each event; whatever goes wrong with one costs that one only."""
        by_handler: dict[str, list[Event]] = defaultdict(list)
        settled: list[Settled] = []
        handler_of = self._registry.handler_of
        for record in records:
            try:
                event = Event.of_record(record)
            except msgspec.DecodeError as error:
                unreadable = Event.of_record(msgspec.structs.replace(record, payload=msgspec.Raw(b"{}")))
                settled.append(Settled(unreadable, failed("malformed_payload", "payload", str(error))))
                continue
            by_handler[handler_of(event.event_type).name].append(event)
        for events in by_handler.values():
            handler = handler_of(events[0].event_type)
            prepared = await _prepare(handler, events, self._services)
            if isinstance(prepared, _OUTCOMES):
                settled.extend(Settled(event, prepared) for event in events)
            else:
                settled.extend(Settled(event, _handle(handler, event, prepared)) for event in events)
        return settled

    def _tell(self, moved: Sequence[Settled], origins: Origins) -> None:
        """Tell the live views and the dead-letter topic, without making anyone wait."""
        self._notices.tell(moved)
        for settled in moved:
            if isinstance(settled.outcome, Failed) and (origin := origins.of(settled.event.id)):
                self._spawn(self._dead_letters.write(self._letter(settled.event, settled.outcome, origin)))

    def _letter(self, event: Event, outcome: Failed, origin: Origin) -> DeadLetter:
        error = outcome.message if outcome.field is None else f"{outcome.field}: {outcome.message}"
        return DeadLetter(
            reason=outcome.code,
            error=error,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            at=self._now(),
            project_id=event.project_id,
            event_id=event.id,
            event_type=event.event_type,
            handler=self._registry.handler_of(event.event_type).name,
            attempt=event.attempt,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._letters) >= MOST_LETTERS:
            work.close()
            _log.warning("a dead letter was dropped", action="dead_letter", handler=self.family)
            return
        task = asyncio.create_task(work)
        self._letters.add(task)
        task.add_done_callback(self._letters.discard)


async def _prepare(handler: Handler, events: Sequence[Event], services: Any) -> Mapping[UUID, Any] | Outcome:
    if handler.prepare is None:
        return _NOTHING
    try:
        async with asyncio.timeout(handler.prepare_seconds):
            return await handler.prepare(events, services)
    except Exception as error:
        _log.warning(
            "a handler could not prepare", action="handler_prepare", handler=handler.name, error=frames_of(error)
        )
        return try_again(f"prepare: {type(error).__name__}: {error}")


def _handle(handler: Handler, event: Event, prepared: Mapping[UUID, Any]) -> Outcome:
    try:
        arguments = () if handler.prepare is None else (prepared.get(event.id),)
        outcome: object = handler.handle(event, *arguments)
    except Exception as error:
        _log.error(
            "a handler raised",
            action="handler_raised",
            handler=handler.name,
            event_id=str(event.id),
            error=frames_of(error),
        )
        return failed("handler_raised", None, f"{type(error).__name__}: {error}")
    if isinstance(outcome, _OUTCOMES):
        return outcome
    return failed("handler_answer", None, f"handler {handler.name} answered {type(outcome).__name__}, not an Outcome")
