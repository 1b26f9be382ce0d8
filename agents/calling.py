"""Calls handlers: whatever goes wrong with one event costs that event only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr

from agents.effects import Settled
from agents.preparing import call_prepare, prepare
from agents.registry import Handler, Registry
from agents.turns import in_turns
from boost_streams.events import Event
from boost_streams.logs import frames_of, get_logger
from boost_streams.outcomes import Failed, Outcome, Processed, TryAgain, failed, try_again
from boost_streams.records import EventRecord, event_of_bytes

#: The codes under which an event fails because of its handler, not of its data.
RAISED = "handler_raised"
WRONG_ANSWER = "handler_answer"

_log = get_logger(__name__)
#: The payload of an event that its handler has seen, and what was prepared where nothing was.
_READ: Mapping[Any, Any] = MappingProxyType({})
_OUTCOMES = (Processed, Failed, TryAgain)


async def outcomes(
    registry: Registry,
    records: Sequence[EventRecord | msgspec.Raw],
    services: Any,
    unreadable: Callable[[msgspec.Raw, msgspec.DecodeError], None] = lambda _, __: None,
) -> list[Settled]:
    """Ask the handlers about each event, in this process; never raises.

    Records may be bytes still; what of them is no record has no outcome and goes to `unreadable`.
    """
    to_prepare: dict[str, list[Event]] = defaultdict(list)
    settled: list[Settled] = []
    handler_of = registry.handler_of
    async for part in in_turns(records):
        for record in part:
            try:
                event = read_event(record)
            except msgspec.DecodeError as error:
                assert isinstance(record, msgspec.Raw)
                unreadable(record, error)
                continue
            if not isinstance(event, Event):
                settled.append(event)
                continue
            handler = handler_of(event.event_type)
            if handler.prepare is None:
                settled.append(_handled(event, call_handler(handler, event, _READ)))
            else:
                to_prepare[handler.name].append(event)
    for events in to_prepare.values():
        settled.extend(await _of_preparing_handler(handler_of(events[0].event_type), events, services))
    return settled


def read_event(record: EventRecord | msgspec.Raw) -> Event | Settled:
    """Read an event's payload; one that cannot be read has failed.

    Raises:
        msgspec.DecodeError: The record is bytes, and they are no record.
    """
    if isinstance(record, msgspec.Raw):
        try:
            return Event.of_bytes(record)
        except msgspec.DecodeError:
            record = event_of_bytes(record)
    try:
        return Event.of_record(record)
    except msgspec.DecodeError as error:
        unreadable = Event.of_record(msgspec.structs.replace(record, payload=msgspec.Raw(b"{}")))
        return Settled(unreadable, failed("malformed_payload", "payload", str(error)))


async def _of_preparing_handler(handler: Handler, events: Sequence[Event], services: Any) -> list[Settled]:
    prepared = await prepare(handler, events, services)
    answers, refused = prepared.answers, prepared.refused
    settled: list[Settled] = []
    async for part in in_turns(events):
        for event in part:
            reason = refused.get(event.id) if refused else None
            outcome = call_handler(handler, event, answers) if reason is None else try_again(reason)
            settled.append(_handled(event, outcome))
    return settled


def _handled(event: Event, outcome: Outcome) -> Settled:
    """Return an event with its outcome and without its payload, which nobody reads any more.

    It is most of an event's memory, and the next event's takes its place, in the cache still (docs/adr/0031).
    """
    force_setattr(event, "payload", _READ)
    return Settled(event, outcome)


def call_handler(handler: Handler, event: Event, prepared: Mapping[UUID, Any]) -> Outcome:
    """Ask a handler about one event; never raises."""
    try:
        arguments = () if handler.prepare is None else (prepared.get(event.id),)
        outcome: object = handler.handle(event, *arguments)
    except BaseException as error:
        # All of them: this call waits for nothing, so that nobody ends or cancels the worker by way of it.
        _log.error(
            "a handler raised",
            action="handler_raised",
            handler=handler.name,
            event_id=str(event.id),
            error=frames_of(error),
        )
        return failed(RAISED, None, f"{type(error).__name__}: {error}")
    if isinstance(outcome, _OUTCOMES):
        return outcome
    return failed(WRONG_ANSWER, None, f"handler {handler.name} answered {type(outcome).__name__}, not an Outcome")


def handler_in(frame: FrameType | None) -> tuple[str, str | None] | None:
    """Return the handler, and the event if it is one, that a stack of frames is busy with; None when it is with none.

    What is called is read off the stack when somebody wants to know, so that calling costs nothing more.
    """
    while frame is not None:
        if frame.f_code in (call_handler.__code__, call_prepare.__code__):
            event = frame.f_locals.get("event")
            return frame.f_locals["handler"].name, None if event is None else str(event.id)
        frame = frame.f_back
    return None
