"""What a handler answers: a value that says what became of an event and what follows from it.

A handler is a pure function `handle(event) -> Outcome`. It touches neither database nor clock; settlement
adds up the effects of a whole batch and writes them in the transaction that moves the events on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

Bucket = Literal["hour", "day"]
#: The amount of what has none.
NO_AMOUNT = Decimal(0)


class Count(msgspec.Struct, frozen=True, gc=False):
    """Add `count` and `amount` to one rollup row of the event's project.

    A row is named by `metric` (such as `page_views`), the hour or UTC day of the event's `occurred_at`, and
    `dimensions` (texts, in the order that the metric documents). Additions commute, so that order of delivery
    does not matter.
    """

    metric: str
    dimensions: tuple[str, ...]
    bucket: Bucket = "day"
    count: int = 1
    amount: Decimal = NO_AMOUNT


class EndUserSeen(msgspec.Struct, frozen=True, gc=False):
    """An end user of the project showed up: merge traits, widen first and last seen.

    Traits merge per key; the newest `(occurred_at, event id)` wins. `signed_up` keeps the earliest time.
    """

    user_id: str
    traits: Mapping[str, Any] = msgspec.field(default_factory=dict)
    signed_up: bool = False
    logged_in: bool = False


Effect = Count | EndUserSeen


class Processed(msgspec.Struct, frozen=True, gc=False):
    """The event is done; its effects are to be written."""

    effects: tuple[Effect, ...] = ()


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The event can never be handled: bad data. `error` is shown to whoever asks for the event."""

    code: str
    field: str | None
    message: str


class TryAgain(msgspec.Struct, frozen=True, gc=False):
    """What the handler depends on was away; hand the event over again after a while (seconds)."""

    reason: str
    after_seconds: float | None = None


Outcome = Processed | Failed | TryAgain


def processed(*effects: Effect) -> Processed:
    """Say that an event is done, with these effects."""
    return Processed(effects)


def failed(code: str, field: str | None, message: str) -> Failed:
    """Say that an event can never be handled, naming the field at fault."""
    return Failed(code, field, message)


def try_again(reason: str, after_seconds: float | None = None) -> TryAgain:
    """Say that the event should be handed over again, after a delay or after the default back-off."""
    return TryAgain(reason, after_seconds)


def bucket_start(occurred_at: dt.datetime, bucket: Bucket) -> dt.datetime:
    """Return the start (UTC) of the hour or day in which an event occurred."""
    utc = occurred_at.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    return utc if bucket == "hour" else utc.replace(hour=0)
