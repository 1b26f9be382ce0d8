"""Notices go at once, and add up while the one before is fresh."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

from agents import notices as notices_module
from agents.effects import Settled, effects_of
from agents.handlers import load_registry
from agents.notices import SettledNotices
from boost_streams.errors import BrokerAway
from boost_streams.events import Event
from boost_streams.outcomes import Count, failed, processed
from boost_streams.records import SettledDeltas
from db.settlement import FirstAttempts
from tests.support.waiting import eventually

NOON = dt.datetime(2026, 1, 1, 12, 0, 30, tzinfo=dt.UTC)
MINUTE = NOON.replace(second=0)


class _Publisher:
    """Stands in for the broker: what is asked here is what goes to it, and when."""

    def __init__(self, away: bool = False) -> None:
        self.sent: list[SettledDeltas] = []
        self.keys: list[bytes | None] = []
        self.away = away

    async def send(self, record: Any, *, key: bytes | None = None) -> None:
        self.sent.append(record)
        self.keys.append(key)
        if self.away:
            raise BrokerAway("away")

    def counts(self) -> list[tuple[str, int, int]]:
        return [(c.event_type, c.processed, c.failed) for deltas in self.sent for c in deltas.counts]


def settled(event_type: str, *, bad: bool = False, project: int = 1) -> Settled:
    event = Event(UUID(int=1), UUID(int=project), event_type, NOON, NOON, {})
    return Settled(event, failed("bad", None, "no") if bad else processed())


def notices_of(publisher: _Publisher, pause_seconds: float) -> SettledNotices:
    return SettledNotices(publisher, lambda: NOON, pause_seconds)  # type: ignore[arg-type]


async def test_what_is_added_up_is_told_as_what_is_counted() -> None:
    moved = [
        Settled(one.event, processed(Count("clicks", ()), Count("events_per_hour", ("a", "failed"), "hour")))
        if one.event.event_type == "a"
        else one
        for one in (settled("a"), settled("b", bad=True), settled("b"), settled("a", project=2), settled("b"))
    ]
    effects = effects_of(moved, load_registry())
    publishers = _Publisher(), _Publisher()
    for publisher, added_up in zip(publishers, (None, FirstAttempts({}, {}, (), effects.additions())), strict=True):
        notices_of(publisher, 3600).tell(moved, added_up)
        await eventually(lambda publisher=publisher: len(publisher.sent) == 2)
    assert publishers[0].counts() == [("a", 1, 0), ("b", 2, 1), ("a", 1, 0)]
    assert publishers[0].sent == publishers[1].sent


async def test_the_first_goes_at_once_and_the_next_add_up() -> None:
    publisher = _Publisher()
    notices = notices_of(publisher, 3600)
    notices.tell([settled("a"), settled("a", bad=True), settled("b")])
    await eventually(lambda: len(publisher.sent) == 1)
    assert publisher.counts() == [("a", 1, 1), ("b", 1, 0)]
    assert publisher.keys == [UUID(int=1).bytes]
    assert {count.minute for count in publisher.sent[0].counts} == {MINUTE}
    for _ in range(3):
        notices.tell([settled("a"), settled("c", project=2)])
    assert len(publisher.sent) == 1
    await notices.flush()
    assert publisher.counts()[2:] == [("a", 3, 0), ("c", 3, 0)]
    assert [deltas.project_id.int for deltas in publisher.sent] == [1, 1, 2]


async def test_after_the_pause_what_waits_is_sent() -> None:
    publisher = _Publisher()
    notices = notices_of(publisher, 0.01)
    for number in range(3):
        notices.tell([settled("a")])
        await eventually(lambda wanted=number + 1: len(publisher.counts()) == wanted)


async def test_a_broker_that_is_away_costs_the_notice_and_nothing_else() -> None:
    publisher = _Publisher(away=True)
    notices = notices_of(publisher, 0.01)
    notices.tell([settled("a")])
    await eventually(lambda: len(publisher.sent) == 1)
    notices.tell([settled("b")])
    await eventually(lambda: len(publisher.sent) == 2)


async def test_what_waits_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(notices_module, "MOST_WAITING", 2)
    publisher = _Publisher()
    notices = notices_of(publisher, 3600)
    notices.tell([settled("a"), settled("b")])
    notices.tell([settled("c")])
    await notices.flush()
    assert publisher.counts() == [("a", 1, 0), ("b", 1, 0)]
