"""The dispatcher splits batches by family and puts together what was taken together."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import msgspec
import pytest

from agents import dispatcher
from agents.dispatcher import merge, split_by_family
from agents.handlers import load_registry
from boost_streams.event_id import event_ids, id_at
from boost_streams.records import EventRecord, RawEventBatch

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
REGISTRY = load_registry()


def batch(at: dt.datetime, *types: str, payload: bytes = b"{}") -> RawEventBatch:
    batch_id = id_at(at)
    records = [
        EventRecord(
            id=event_id,
            project_id=UUID(int=1),
            event_type=event_type,
            occurred_at=at,
            received_at=at,
            payload=msgspec.Raw(payload),
        )
        for event_id, event_type in zip(event_ids(batch_id, len(types)), types, strict=True)
    ]
    return RawEventBatch(batch_id, at, at, records)


def split(*batches: RawEventBatch) -> list[dispatcher.HandlerBatch]:
    return [part for one in batches for part in split_by_family(one, REGISTRY)]


def test_one_message_per_family_however_many_batches() -> None:
    first = batch(NOON, "page_view", "user_login", "click")
    second = batch(NOON + SECOND, "user_login", "page_view", "other")
    merged = {one.handler: one for one in merge(split(first, second))}
    assert set(merged) == {"tracking", "user", "default"}
    assert [e.id for e in merged["tracking"].events] == [first.events[0].id, first.events[2].id, second.events[1].id]
    assert [e.id for e in merged["user"].events] == [first.events[1].id, second.events[0].id]
    assert merged["default"].batch_id == second.batch_id


def test_a_merged_message_is_as_old_as_its_oldest_batch() -> None:
    late, early = batch(NOON + SECOND, "click"), batch(NOON, "click")
    (merged,) = merge(split(late, early))
    assert (merged.batch_id, merged.published_at, merged.committed_at) == (late.batch_id, NOON, NOON)


@pytest.mark.parametrize(("events", "size"), [(3, 1 << 20), (100, 25)])
def test_a_message_has_bounds_and_a_batch_is_never_cut(monkeypatch: pytest.MonkeyPatch, events: int, size: int) -> None:
    monkeypatch.setattr(dispatcher, "MOST_EVENTS_FORWARDED", events)
    monkeypatch.setattr(dispatcher, "MOST_BYTES_FORWARDED", size)
    batches = [batch(NOON + n * SECOND, "click", payload=b'{"a": 1}') for n in range(7)]
    large = batch(NOON, *["click"] * 9, payload=b'{"a": 1}')
    assert [len(one.events) for one in merge(split(*batches, large))] == [3, 3, 1, 9]
