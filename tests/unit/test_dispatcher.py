"""Batches that are there together travel together, up to a bound, and nothing of them is lost."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents import dispatcher
from agents.dispatcher import Dispatcher, split_by_family, together
from agents.handlers import load_registry
from agents.progress import ConsumerProgress
from boost_streams.records import EventRecord, RawEventBatch

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
REGISTRY = load_registry()


def batch(number: int, *types: str, suspect: bool = False) -> RawEventBatch:
    when = NOON + dt.timedelta(seconds=number)
    events = [
        EventRecord(UUID(int=number * 100 + n), UUID(int=1), event_type, when, when, msgspec.Raw(b"{}"))
        for n, event_type in enumerate(types)
    ]
    return RawEventBatch(UUID(int=number), when, when, events, suspect=suspect)


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


def test_what_is_forwarded_is_suspect_when_any_of_it_is() -> None:
    assert [one.suspect for one in split_by_family([batch(1, "click", "x"), batch(2, "click")], REGISTRY)] == [
        False
    ] * 2
    some = [batch(1, "click", "x"), batch(2, "click", suspect=True), batch(3, "x")]
    assert [one.suspect for one in split_by_family(some, REGISTRY)] == [True] * 2


@pytest.mark.parametrize("careful", [False, True])
async def test_what_a_dead_worker_had_read_is_forwarded_as_suspect(careful: bool) -> None:
    """It may have forwarded it and died of it: it comes again on partitions of workers that took over none of its."""
    asked: list[Any] = []

    async def is_careful(taken: Any) -> bool:
        asked.append(taken)
        return careful

    async def postpone(newer: Any) -> None:
        assert newer == []

    some = [message(batch(1, "click")), message(batch(2, "x"))]
    dispatcher = Dispatcher(
        REGISTRY,
        {},
        None,  # type: ignore[arg-type]
        ConsumerProgress(),
        SimpleNamespace(postpone=postpone),  # type: ignore[arg-type]
        SimpleNamespace(careful=is_careful),  # type: ignore[arg-type]
    )
    assert [(one.handler, one.suspect) for one in await dispatcher.split(some)] == [
        ("default", careful),
        ("tracking", careful),
    ]
    assert asked == [some]
