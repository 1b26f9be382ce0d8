"""Which events are handled apart: those of a partition that was taken over, those that say so, those of a suspect."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents.care import SUSPECT_SECONDS, Care
from agents.effects import Settled
from agents.handlers import load_registry
from agents.isolated import KILLED
from boost_streams.events import Event
from boost_streams.outcomes import Failed, Processed, failed
from boost_streams.records import EventRecord, HandlerBatch, Malformed
from tests.support.records import as_bytes, read, unread_handler_batch

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
TOPIC = "events.tracking"


class Message:
    def __init__(self, *numbers: int, suspect: bool = False, event_type: str = "click") -> None:
        self.topic, self.partition, self.offset = TOPIC, 0, min(numbers)
        payload = msgspec.Raw(b'{"element": "a", "url": "/"}')
        events = [EventRecord(UUID(int=n), UUID(int=9), event_type, NOON, NOON, payload) for n in numbers]
        self.value = unread_handler_batch(HandlerBatch(UUID(int=1), NOON, NOON, "tracking", events, suspect=suspect))


class Apart:
    """Runs nothing: notes what it is asked about. `killers` are the events that kill the process."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.killers: set[int] = set()

    async def outcomes(self, records: Sequence[EventRecord]) -> tuple[list[Settled], list[Settled]]:
        self.asked += [record.id.int for record in records]
        settled = [Settled(Event.of_record(one), failed(KILLED, None, "apart")) for one in records]
        return settled, [one for one in settled if one.event.id.int in self.killers]


class Takeovers:
    def __init__(self) -> None:
        self.answer = False

    async def careful(self, taken: Any) -> bool:
        return self.answer


class Setting:
    def __init__(self) -> None:
        self.apart, self.takeovers, self.now = Apart(), Takeovers(), 1000.0
        self.buried: list[Malformed] = []
        self.care = Care(
            load_registry(),
            None,  # type: ignore[arg-type]
            self.takeovers,  # type: ignore[arg-type]
            self.apart,  # type: ignore[arg-type]
            self.bury,
            clock=lambda: self.now,
        )

    async def bury(self, malformed: Malformed) -> None:
        self.buried.append(malformed)

    async def here(self, *messages: Message) -> set[int]:
        """Return the events that were handled in this process; all of them are answered."""
        settled = await self.care.outcomes(messages)  # type: ignore[arg-type]
        asked = {event.id.int for message in messages for event in read(message.value.events)}
        assert {one.event.id.int for one in settled} == asked
        return {one.event.id.int for one in settled if isinstance(one.outcome, Processed)}


async def test_as_a_rule_nothing_is_run_apart() -> None:
    setting = Setting()
    assert await setting.here(Message(1, 2), Message(3)) == {1, 2, 3}
    assert setting.apart.asked == []


async def test_a_message_that_says_that_it_is_suspect_is_run_apart_and_no_other() -> None:
    setting = Setting()
    assert await setting.here(Message(1, 2), Message(3, 4, suspect=True), Message(5)) == {1, 2, 5}
    assert setting.apart.asked == [3, 4]


async def test_all_is_run_apart_while_what_was_taken_over_is_not_dealt_with() -> None:
    setting = Setting()
    setting.takeovers.answer = True
    assert await setting.here(Message(1), Message(2, suspect=True)) == set()
    assert setting.apart.asked == [1, 2]


async def test_a_handler_whose_event_killed_a_process_is_run_apart_for_a_while() -> None:
    setting = Setting()
    setting.apart.killers = {3}
    assert await setting.here(Message(1), Message(3, suspect=True)) == {1}
    assert await setting.here(Message(4), Message(5, event_type="anything")) == {5}
    setting.now += SUSPECT_SECONDS + 1
    assert await setting.here(Message(6)) == {6}


@pytest.mark.parametrize("where", ["here", "apart", "beside a suspected handler"])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"7", id="no object"),
        pytest.param(b'{"id": 1, "event_type": "click"}', id="an id of another type"),
        pytest.param(b'{"event_type":"click"', id="cut short"),
        pytest.param(b'{"event_type":"click","schema_version":9}', id="what looks like a newer record"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="nested too deeply"),
    ],
)
async def test_an_event_that_cannot_be_read_becomes_a_dead_letter_and_costs_no_other(where: str, bad: bytes) -> None:
    setting = Setting()
    if where == "beside a suspected handler":
        setting.apart.killers = {3}
        await setting.here(Message(3, suspect=True))
    first, second = Message(1), Message(4, 5, suspect=where == "apart", event_type="anything")
    second.value.events.insert(1, msgspec.Raw(bad))
    settled = await setting.care.outcomes([first, second])  # type: ignore[list-item]
    assert {one.event.id.int for one in settled} == {1, 4, 5}
    ((place, error),) = [((one.topic, one.partition, one.offset, one.raw), one.error) for one in setting.buried]
    assert place == (TOPIC, 0, 4, bad)
    assert error


async def test_an_event_whose_payload_alone_cannot_be_read_fails() -> None:
    setting = Setting()
    message = Message(1, 2)
    payload = msgspec.Raw(b'{"price": 1e9999999999999999999}')
    message.value.events[1] = as_bytes(EventRecord(UUID(int=2), UUID(int=9), "click", NOON, NOON, payload))
    settled = await setting.care.outcomes([message])  # type: ignore[list-item]
    outcomes = {one.event.id.int: one.outcome for one in settled}
    assert isinstance(outcomes[1], Processed)
    failure = outcomes[2]
    assert isinstance(failure, Failed)
    assert (failure.code, failure.field) == ("malformed_payload", "payload")
    assert setting.buried == []
