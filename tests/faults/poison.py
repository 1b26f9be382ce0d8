"""Events that make trouble, about one in a hundred: ten kinds that are taken, and what is refused or put on topics.

This module and `poison_slow` are handler modules too: `tests/faults/poisoned_worker.py` registers them in the workers
of the suite. What becomes of each kind is fixed, so the oracle knows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, failed, processed, try_again
from tests.faults import poison_fatal, poison_slow
from tests.support import oracle

FAMILY = "payment"
EVENT_TYPES = ("poison_raises", "poison_no_outcome", "poison_bad_effect", "poison_unstorable", "poison_later")
EXAMPLES = (Example("poison_later", {}, expect="try_again"),)

#: At which attempt `poison_later` is done.
LATER_ATTEMPTS = 2

#: How often an event is poison.
SHARE = 0.01


def handle(event: Event) -> Outcome:
    """Do what the event's type says."""
    if event.event_type == "poison_raises":
        raise ZeroDivisionError("a handler that cannot")
    if event.event_type == "poison_no_outcome":
        return "done"  # type: ignore[return-value]
    if event.event_type == "poison_bad_effect":
        return processed(Count("poison", ("bad",), count="many"))  # type: ignore[arg-type]
    if event.event_type == "poison_unstorable":
        return processed(Count("poison", ("a\x00b",)))
    if event.attempt < LATER_ATTEMPTS:
        return try_again("its dependency is away", 0.5)
    return processed(Count("poison", ("later",)))


def _deep() -> dict[str, Any]:
    payload: dict[str, Any] = {"end": 1}
    for _ in range(60):
        payload = {"deeper": payload}
    return payload


_KINDS: tuple[Callable[[], dict[str, Any]], ...] = (
    *((lambda event_type=event_type: {"eventType": event_type, "payload": {}}) for event_type in EVENT_TYPES),
    lambda: {"eventType": "poison_prepare_hangs", "payload": {}},
    lambda: {"eventType": "huge", "payload": {"text": "x" * 40_000, "numbers": [1e300] * 200}},
    lambda: {"eventType": "deep", "payload": _deep()},
    lambda: {"eventType": "payment_completed", "payload": {"amount": True, "currency": "EUR"}},
    lambda: {"eventType": "page_view", "payload": {"url": ["of", "a", "wrong", "type"]}},
)


def event_of(chance: random.Random) -> dict[str, Any]:
    """Return one of the ten kinds."""
    return chance.choice(_KINDS)()


#: What must be refused at the door, nothing of it stored.
def refused_of(chance: random.Random) -> dict[str, Any]:
    """Return an event that no server may take."""
    return chance.choice(
        (
            {"eventType": "nul", "payload": {"text": "a\x00b"}},
            {"eventType": "too_large", "payload": {"text": "x" * 70_000}},
            {"eventType": " ", "payload": {}},
            {"eventType": "no_object", "payload": [1]},
            {"eventType": "far", "payload": {}, "timestamp": "1815-12-10T00:00:00Z"},
        )
    )


#: Messages that nobody can read, put on the topics of a run.
UNREADABLE = (b"", b"\xff\xfe\x00", b"not json", b'{"events": "none"}', b"[1, 2, 3]", b'{"batch_id": ' + b"[" * 5000)


def handle_as_the_workers_do() -> oracle.Handle:
    """Return what becomes of an event in the workers of the suite, for the oracle."""
    known = oracle.registered()

    def handled(event: Event) -> Outcome:
        if event.event_type in poison_slow.EVENT_TYPES:
            return poison_slow.handle(event)
        if event.event_type not in (*EVENT_TYPES, *poison_fatal.EVENT_TYPES):
            return known(event)
        if event.event_type == "poison_later":
            return handle(event)
        return failed("handler_raised", None, "as its type says")

    return handled
