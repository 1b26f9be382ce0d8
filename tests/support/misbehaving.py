"""Handlers that do what handlers must not: loaded by a test's workers through `BOOST_HANDLER_MODULES`.

`misbehave`: the payload's `how` says what happens; with `TEST_BAD_DEPLOY` in the environment every event
fails. The handler counts, in metric `misbehaved`, the events it survived.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import sys
import time

from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, failed, processed, try_again

FAMILY = "payment"
EVENT_TYPES = ("misbehave",)


def handle(event: Event) -> Outcome:
    if os.environ.get("TEST_BAD_DEPLOY"):
        raise RuntimeError("a bad deploy")
    how = event.payload.get("how", "well")
    if how == "loop":
        while True:
            pass
    if how == "sleep":
        time.sleep(3600)
    if how == "regex":
        re.match(r"(a+)+$", "a" * 64 + "b")  # keeps the interpreter to itself for ages
    if how == "memory":
        _eat()
    if how == "exit":
        sys.exit(3)
    if how == "cancel":
        raise asyncio.CancelledError
    if how == "crash":
        ctypes.string_at(0)
    if how == "raise":
        raise RuntimeError("on purpose")
    if how == "fail":
        return failed("invalid", "how", "on purpose")
    if how == "later":
        return try_again("on purpose", 0.2)
    if how == "nothing":
        return None  # type: ignore[return-value]
    return processed(Count("misbehaved", ("survived",)))


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(b"x" * (4 << 20))
        time.sleep(0.01)


EXAMPLES = (Example("misbehave", {"how": "well"}),)
