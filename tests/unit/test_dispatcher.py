"""The dispatcher splits batches by family and puts together what was taken together."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents import dispatcher
from agents.dispatcher import split_by_family, together
from agents.handlers import load_registry
from boost_streams.event_id import event_ids, id_at
from boost_streams.records import EventRecord, RawEventBatch

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
REGISTRY = load_registry()


def batch(at: dt.datetime, *types: str) -> RawEventBatch:
    batch_id = id_at(at)
    records = [
        EventRecord(
            id=event_id,
            project_id=UUID(int=1),
            event_type=event_type,
            occurred_at=at,
            received_at=at,
            payload=msgspec.Raw(b"{}"),
        )
        for event_id, event_type in zip(event_ids(batch_id, len(types)), types, strict=True)
    ]
    return RawEventBatch(batch_id, at, at, records)


def taken(value: RawEventBatch, size: int = 10) -> Any:
    return SimpleNamespace(value=value, size=size)


def test_one_message_per_family_however_many_batches() -> None:
    first = batch(NOON, "page_view", "user_login", "click")
    second = batch(NOON + SECOND, "user_login", "page_view", "other")
    split = {one.handler: one for one in split_by_family([first, second], REGISTRY)}
    assert set(split) == {"tracking", "user", "default"}
    assert [e.id for e in split["tracking"].events] == [first.events[0].id, first.events[2].id, second.events[1].id]
    assert [e.id for e in split["user"].events] == [first.events[1].id, second.events[0].id]


def test_a_message_is_as_old_as_its_oldest_batch() -> None:
    late, early = batch(NOON + SECOND, "click"), batch(NOON, "click")
    (split,) = split_by_family([late, early], REGISTRY)
    assert (split.batch_id, split.published_at, split.committed_at) == (early.batch_id, NOON, NOON)


@pytest.mark.parametrize(("events", "size"), [(3, 1 << 20), (100, 30)])
def test_a_message_has_bounds_and_a_batch_is_never_cut(monkeypatch: pytest.MonkeyPatch, events: int, size: int) -> None:
    monkeypatch.setattr(dispatcher, "MOST_TOGETHER", events)
    monkeypatch.setattr(dispatcher, "MOST_BYTES_TOGETHER", size)
    batches = [taken(batch(NOON + n * SECOND, "click")) for n in range(7)]
    large = taken(batch(NOON, *["click"] * 9), size=90)
    assert [sum(len(one.events) for one in group) for group in together([*batches, large])] == [3, 3, 1, 9]
