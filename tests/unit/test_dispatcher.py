"""Batches that are there together travel together, up to a bound, and nothing of them is lost."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec

from agents import dispatcher
from agents.dispatcher import split_by_family, together
from agents.handlers import load_registry
from boost_streams.records import EventRecord, RawEventBatch

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
REGISTRY = load_registry()


def batch(number: int, *types: str) -> RawEventBatch:
    when = NOON + dt.timedelta(seconds=number)
    events = [
        EventRecord(UUID(int=number * 100 + n), UUID(int=1), event_type, when, when, msgspec.Raw(b"{}"))
        for n, event_type in enumerate(types)
    ]
    return RawEventBatch(UUID(int=number), when, when, events)


def message(value: RawEventBatch, size: int = 100) -> Any:
    return SimpleNamespace(value=value, size=size)


def test_every_event_goes_to_its_family_in_order_under_the_earliest_times() -> None:
    forwarded = split_by_family([batch(2, "click", "x"), batch(1, "page_view", "user_login", "click")], REGISTRY)
    assert {one.handler: [event.id.int for event in one.events] for one in forwarded} == {
        "default": [201],
        "tracking": [200, 100, 102],
        "user": [101],
    }
    assert {(one.batch_id.int, one.committed_at, one.published_at) for one in forwarded} == {
        (1, NOON + dt.timedelta(seconds=1), NOON + dt.timedelta(seconds=1))
    }


def test_what_is_there_together_travels_together_within_bounds(monkeypatch: Any) -> None:
    monkeypatch.setattr(dispatcher, "MOST_TOGETHER", 4)
    monkeypatch.setattr(dispatcher, "MOST_BYTES_TOGETHER", 1000)
    batches = [batch(n, "click", "click") for n in range(6)]
    sizes = (100, 100, 100, 950, 100, 5000)
    groups = list(together([message(one, size) for one, size in zip(batches, sizes, strict=True)]))
    assert [[one.batch_id.int for one in group] for group in groups] == [[0, 1], [2], [3], [4], [5]]
    assert list(together([])) == []
