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
from boost_streams.records import EventRecord, Malformed, RawEventBatch, UnreadBatch
from tests.support.records import read, unread

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
REGISTRY = load_registry()


def batch(number: int, *types: str, suspect: bool = False) -> UnreadBatch:
    when = NOON + dt.timedelta(seconds=number)
    events = [
        EventRecord(UUID(int=number * 100 + n), UUID(int=1), event_type, when, when, msgspec.Raw(b"{}"))
        for n, event_type in enumerate(types)
    ]
    return unread(RawEventBatch(UUID(int=number), when, when, events, suspect=suspect))


def message(value: UnreadBatch, size: int = 100, offset: int = 0) -> Any:
    return SimpleNamespace(value=value, size=size, topic="raw-events", partition=2, offset=offset)


def holding(*events: bytes) -> UnreadBatch:
    return UnreadBatch(UUID(int=1), NOON, NOON, [msgspec.Raw(event) for event in events])


def test_every_event_goes_to_its_family_in_order_under_the_earliest_times() -> None:
    forwarded = split_by_family([batch(2, "click", "x"), batch(1, "page_view", "user_login", "click")], REGISTRY)
    assert {one.handler: [event.id.int for event in read(one.events)] for one in forwarded} == {
        "default": [201],
        "tracking": [200, 100, 102],
        "user": [101],
    }
    assert {(one.batch_id.int, one.committed_at, one.published_at) for one in forwarded} == {
        (1, NOON + dt.timedelta(seconds=1), NOON + dt.timedelta(seconds=1))
    }


def test_an_event_travels_on_byte_for_byte() -> None:
    event = b'{"project_id":"not looked at",  "event_type" : "click", "new_field":[1,{"event_type":"x"}]}'
    (forwarded,) = split_by_family([holding(event)], REGISTRY)
    assert (forwarded.handler, [bytes(one) for one in forwarded.events]) == ("tracking", [event])


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


class Setting:
    """A dispatcher whose dead letters and questions are noted."""

    def __init__(self, *, careful: bool = False) -> None:
        self.careful = careful
        self.asked: list[Any] = []
        self.buried: list[Malformed] = []
        self.dispatcher = Dispatcher(
            REGISTRY,
            {},
            SimpleNamespace(malformed=self.bury),  # type: ignore[arg-type]
            ConsumerProgress(),
            SimpleNamespace(postpone=self.postpone),  # type: ignore[arg-type]
            SimpleNamespace(careful=self.is_careful),  # type: ignore[arg-type]
        )

    async def bury(self, malformed: Malformed) -> None:
        self.buried.append(malformed)

    async def postpone(self, newer: Any) -> None:
        assert newer == []

    async def is_careful(self, taken: Any) -> bool:
        self.asked.append(taken)
        return self.careful


@pytest.mark.parametrize("careful", [False, True])
async def test_what_a_dead_worker_had_read_is_forwarded_as_suspect(careful: bool) -> None:
    """It may have forwarded it and died of it: it comes again on partitions of workers that took over none of its."""
    setting = Setting(careful=careful)
    some = [message(batch(1, "click")), message(batch(2, "x"))]
    assert [(one.handler, one.suspect) for one in await setting.dispatcher.split(some)] == [
        ("default", careful),
        ("tracking", careful),
    ]
    assert setting.asked == [some]
    assert setting.buried == []


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"7", id="no object"),
        pytest.param(b"{}", id="no type"),
        pytest.param(b'{"event_type":null}', id="type of another type"),
        pytest.param(b'{"event_type":"\xff"}', id="type that is no UTF-8"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"event_type":"click"}', id="nested too deeply"),
    ],
)
async def test_an_event_whose_type_cannot_be_read_becomes_a_dead_letter_and_costs_no_other(bad: bytes) -> None:
    setting = Setting()
    good = b'{"event_type":"click"}'
    some = [message(holding(good), offset=7), message(holding(good, bad, good), offset=8)]
    (forwarded,) = await setting.dispatcher.split(some)
    assert [bytes(event) for event in forwarded.events] == [good] * 3
    ((where, error),) = [((one.topic, one.partition, one.offset, one.raw), one.error) for one in setting.buried]
    assert where == ("raw-events", 2, 8, bad)
    assert error
