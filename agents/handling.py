"""The one loop that every handler agent runs: take, handle, settle, acknowledge."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from agents.dead_letters import DeadLetters
from agents.effects import Settled, deltas_of
from agents.progress import ConsumerProgress
from agents.registry import Handler, Registry
from agents.settlement import Settlement
from agents.streams import Taken, acknowledge, ready_batches
from boost_streams.errors import BrokerAway
from boost_streams.events import Event
from boost_streams.logs import frames_of, get_logger
from boost_streams.outcomes import Failed, Outcome, Processed, TryAgain, failed, try_again
from boost_streams.publishing import Publisher
from boost_streams.records import DeadLetter, EventRecord, HandlerBatch, Malformed

#: About how many events are handled and settled together.
MOST_EVENTS = 1000
#: How many notices of what settled may be on their way to the broker; beyond it they are dropped.
MOST_NOTICES = 64

_log = get_logger(__name__)
_NOTHING: Mapping[UUID, Any] = {}
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
        settled_publisher: Publisher,
        services: Any,
        now: Callable[[], dt.datetime],
    ) -> None:
        self.family = family
        self._registry = registry
        self._settlement = settlement
        self._progress = progress
        self._dead_letters = dead_letters
        self._settled_publisher = settled_publisher
        self._services = services
        self._now = now
        self._notices: set[asyncio.Task[None]] = set()

    async def run(self, stream: Any) -> None:
        """Handle until cancelled."""
        weight = lambda value: len(getattr(value, "events", ()))  # noqa: E731
        async for taken in ready_batches(stream, self._progress, most=MOST_EVENTS, weight=weight):
            await self.handle_and_settle(taken)
            await acknowledge(taken, self._progress)

    async def handle_and_settle(self, taken: Sequence[Taken]) -> None:
        """Handle the events of these messages and settle them; unreadable messages are dead-lettered."""
        records: list[EventRecord] = []
        origin: dict[UUID, Taken] = {}
        for message in taken:
            if isinstance(message.value, Malformed):
                await self._dead_letters.malformed(message.value)
            elif isinstance(message.value, HandlerBatch):
                records.extend(message.value.events)
                origin.update((event.id, message) for event in message.value.events)
        if not records:
            return
        moved = await self._settlement.settle(self.family, await self.outcomes(records))
        self._tell(moved, origin)

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

    def _tell(self, moved: Sequence[Settled], origin: Mapping[UUID, Taken]) -> None:
        """Tell the live views and the dead-letter topic, without making anyone wait."""
        for deltas in deltas_of(moved, self._now()):
            self._spawn(self._notify(deltas.project_id, deltas))
        for settled in moved:
            if isinstance(settled.outcome, Failed):
                message = origin[settled.event.id]
                self._spawn(self._dead_letters.write(self._letter(settled.event, settled.outcome, message)))

    def _letter(self, event: Event, outcome: Failed, message: Taken) -> DeadLetter:
        error = outcome.message if outcome.field is None else f"{outcome.field}: {outcome.message}"
        return DeadLetter(
            reason=outcome.code,
            error=error,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            at=self._now(),
            project_id=event.project_id,
            event_id=event.id,
            event_type=event.event_type,
            handler=self._registry.handler_of(event.event_type).name,
            attempt=event.attempt,
        )

    async def _notify(self, project_id: UUID, deltas: Any) -> None:
        try:
            await self._settled_publisher.send(deltas, key=project_id.bytes)
        except BrokerAway as error:
            _log.info("live views not told", action="settled_notice", project_id=str(project_id), error=error.message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._notices) >= MOST_NOTICES:
            work.close()
            _log.warning("a notice was dropped", action="settled_notice", handler=self.family)
            return
        task = asyncio.create_task(work)
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)


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
    outcome: object
    try:
        if handler.prepare is None:
            outcome = handler.handle(event)
        else:
            outcome = handler.handle(event, prepared.get(event.id))
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
