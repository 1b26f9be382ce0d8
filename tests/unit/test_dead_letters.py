"""Limits of handlers, origins, cursors, and the letters of messages: what needs no server."""

from __future__ import annotations

import base64
import datetime as dt
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.burials import Origins, burials_of
from agents.effects import Settled
from agents.handlers import load_registry
from agents.registry import MAX_AGE_SECONDS, MAX_ATTEMPTS
from agents.settlement import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, move_of, within_limits
from agents.streams import Taken
from boost_streams.errors import Invalid
from boost_streams.events import Event
from boost_streams.outcomes import Failed, TryAgain, failed, processed
from boost_streams.records import EventKey, Malformed, Newer, UnreadHandlerBatch
from db.burial import Origin, burial_parameters, message_letter_id
from db.cursors import read_cursor, write_cursor

NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)
REGISTRY = load_registry()
HANDLER = REGISTRY.handler_of("page_view")


def event(number: int = 1, **fields: Any) -> Event:
    given = {"id": UUID(int=number), "project_id": UUID(int=9), "event_type": "page_view", "payload": {}, **fields}
    return Event(occurred_at=NOON, received_at=NOON - dt.timedelta(days=90), **given)


def code_of(settled: Settled) -> str | None:
    return settled.outcome.code if isinstance(settled.outcome, Failed) else None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, None),
        ({"attempt": MAX_ATTEMPTS - 2}, None),
        ({"attempt": MAX_ATTEMPTS - 1}, "too_many_attempts"),
        ({"attempt": 1000, "asked_attempt": 1000}, None),
        ({"attempt": 1000 + MAX_ATTEMPTS - 1, "asked_attempt": 1000}, "too_many_attempts"),
        ({"attempt": 3, "trying_since": NOON - dt.timedelta(seconds=MAX_AGE_SECONDS - 1)}, None),
        ({"attempt": 3, "trying_since": NOON - dt.timedelta(seconds=MAX_AGE_SECONDS)}, "tried_too_long"),
        ({"attempt": 3, "trying_since": NOON + dt.timedelta(hours=1)}, None),
    ],
)
def test_limits_of_try_again(fields: dict[str, Any], code: str | None) -> None:
    again = Settled(event(**fields), TryAgain("away"))
    assert code_of(within_limits(again, HANDLER, NOON)) == code


def test_limits_are_for_try_again_only() -> None:
    for outcome in (processed(), failed("x", None, "y")):
        settled = Settled(event(attempt=10_000), outcome)
        assert within_limits(settled, HANDLER, NOON) is settled


def test_back_off_doubles_up_to_the_longest_and_begins_anew_when_somebody_asks() -> None:
    def pause(attempt: int, asked: int = 0) -> float:
        tried = Settled(event(attempt=attempt, asked_attempt=asked), TryAgain("x"))
        return move_of(tried, lambda: 0.5).retry_after

    assert [pause(n) for n in range(3)] == [FIRST_RETRY_SECONDS * 2**n for n in range(3)]
    assert pause(100_000) == LONGEST_RETRY_SECONDS
    assert pause(20, asked=20) == FIRST_RETRY_SECONDS


def test_origins_are_looked_up_once_and_only_when_asked_for() -> None:
    looked: list[int] = []

    class Message:
        topic, partition, offset = "events.tracking", 1, 2

        @property
        def value(self) -> Any:
            looked.append(1)
            keys = [{"id": UUID(int=number), "project_id": UUID(int=9)} for number in (1, 2)]
            events = [*map(msgspec.Raw, map(msgspec.json.encode, keys)), msgspec.Raw(b"7")]
            return UnreadHandlerBatch(UUID(int=1), NOON, NOON, "tracking", events)

    made: Any = Message()
    newer = SimpleNamespace(value=Newer("events.tracking", 1, 3, 2, [EventKey(UUID(int=3), UUID(int=9))]))
    unreadable = SimpleNamespace(value=Malformed("events.tracking", 1, 4, "no JSON", b"x"))
    origins = Origins(cast("list[Taken]", [newer, made, unreadable]))
    assert looked == []
    assert origins.of(UUID(int=1)) == origins.of(UUID(int=2)) == Origin("events.tracking", 1, 2)
    assert origins.of(UUID(int=3)) is None
    assert looked == [1]


def test_what_failed_is_buried_in_the_order_of_the_locks() -> None:
    batch = [
        Settled(event(3), failed("b", "f", "x")),
        Settled(event(2), processed()),
        Settled(event(1), failed("a", None, "y")),
    ]
    burials = burials_of(batch, REGISTRY, Origins())
    assert [burial.code for burial in burials] == ["b", "a"]
    parameters = burial_parameters(burials)
    assert parameters[1] == [UUID(int=1), UUID(int=3)]
    assert parameters[5] == [None, "f"]
    assert parameters[8] == [None, None]


TIMES = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(9998, 1, 1), timezones=st.just(dt.UTC))


@given(st.uuids(), st.lists(TIMES, min_size=1, max_size=2))
def test_cursors_come_back_as_they_were(row_id: UUID, times: list[dt.datetime]) -> None:
    assert read_cursor(write_cursor(row_id, *times), times=len(times)) == (*times, row_id)
    with pytest.raises(Invalid):
        read_cursor(write_cursor(row_id, *times), times=3 - len(times))


@pytest.mark.parametrize("cursor", ["", "abc", "ä", "A" * 34, "_" * 34])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        read_cursor(cursor, times=1)


@given(st.binary())
def test_no_bytes_break_a_cursor(data: bytes) -> None:
    with pytest.raises(Invalid):
        read_cursor(base64.urlsafe_b64encode(b"\x02" + data[:20]).decode(), times=1)


def test_a_message_has_the_same_letter_each_time_and_another_elsewhere() -> None:
    here = message_letter_id(Origin("t", 1, 2), b"x")
    assert here == message_letter_id(Origin("t", 1, 2), b"x")
    others = [
        (Origin("t", 1, 3), b"x"),
        (Origin("t", 2, 2), b"x"),
        (Origin("u", 1, 2), b"x"),
        (Origin("t", 1, 2), b"y"),
    ]
    assert len({here, *(message_letter_id(*other) for other in others)}) == 5
