"""Ids: consecutive within a batch, apart between batches, and the days that partition them."""

from __future__ import annotations

import datetime as dt
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boost_streams.event_id import (
    IDS_PER_BATCH,
    batch_of,
    bounds_of_day,
    created_at,
    day_of,
    event_ids,
    first_id_of_day,
    id_at,
    id_texts,
    last_of,
    new_batch_id,
)

BATCH = UUID("019690a0-1234-7abc-9def-0123456f0000")
MOMENTS = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))


def to_the_millisecond(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def test_a_batch_id_is_a_uuid7_of_now_whose_low_bits_are_free() -> None:
    before = dt.datetime.now(dt.UTC)
    batch_id = new_batch_id()
    after = dt.datetime.now(dt.UTC)
    assert batch_id.version == 7
    assert batch_id.variant == RFC_4122
    assert batch_id.int % IDS_PER_BATCH == 0
    assert to_the_millisecond(before) <= created_at(batch_id) <= after


def test_batch_ids_are_apart_and_do_not_run_backwards() -> None:
    ids = [new_batch_id() for _ in range(5000)]
    assert len(set(ids)) == len(ids)
    times = [created_at(batch_id) for batch_id in ids]
    assert times == sorted(times)


def test_events_follow_each_other() -> None:
    ids = event_ids(BATCH, 3)
    assert [event_id.int - BATCH.int for event_id in ids] == [0, 1, 2]
    assert event_ids(BATCH, 0) == []


@pytest.mark.parametrize("count", [0, 1, 500, 1024, 1025, IDS_PER_BATCH])
def test_the_texts_of_ids_are_what_str_says(count: int) -> None:
    assert id_texts(BATCH, count) == [str(event_id) for event_id in event_ids(BATCH, count)]


@pytest.mark.parametrize("count", [1, 2, 2500, IDS_PER_BATCH])
def test_every_event_leads_back_to_its_batch(count: int) -> None:
    ids = event_ids(BATCH, count)
    assert len(ids) == len(set(ids)) == count
    for event_id in (ids[0], ids[-1]):
        assert event_id.version == 7
        assert event_id.variant == RFC_4122
        assert batch_of(event_id) == BATCH
        assert BATCH <= event_id <= last_of(BATCH)
        assert created_at(event_id) == created_at(BATCH)


def test_the_next_batch_starts_beyond_the_last_id() -> None:
    assert event_ids(BATCH, IDS_PER_BATCH)[-1] == last_of(BATCH)
    assert batch_of(UUID(int=last_of(BATCH).int + 1)) != BATCH


def test_a_batch_owns_no_more_than_65_536_ids() -> None:
    with pytest.raises(ValueError, match="65536"):
        event_ids(BATCH, IDS_PER_BATCH + 1)
    with pytest.raises(ValueError, match="65536"):
        id_texts(BATCH, IDS_PER_BATCH + 1)


@given(MOMENTS)
def test_an_id_of_a_given_time_says_that_time(moment: dt.datetime) -> None:
    event_id = id_at(moment)
    assert event_id.version == 7
    assert event_id.variant == RFC_4122
    assert created_at(event_id) == to_the_millisecond(moment)
    assert day_of(event_id) == moment.date()


@given(MOMENTS)
def test_an_id_lies_within_the_bounds_of_its_day(moment: dt.datetime) -> None:
    lower, upper = bounds_of_day(moment.date())
    highest_of_its_millisecond = UUID(int=id_at(moment).int | ((1 << 62) - 1) | (0xFFF << 64))
    assert lower <= id_at(moment) <= highest_of_its_millisecond < upper


def test_the_bounds_of_days_meet() -> None:
    new_year = dt.date(2027, 1, 1)
    assert bounds_of_day(dt.date(2026, 12, 31))[1] == first_id_of_day(new_year)
    last = id_at(dt.datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC))
    assert last < first_id_of_day(new_year) <= id_at(dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
    assert (day_of(last), day_of(first_id_of_day(new_year))) == (dt.date(2026, 12, 31), new_year)


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    tokyo = dt.timezone(dt.timedelta(hours=9))
    assert id_at(dt.datetime(2026, 5, 4, 8, 0, tzinfo=tokyo)) == id_at(dt.datetime(2026, 5, 3, 23, 0, tzinfo=dt.UTC))
