"""`prepare` that raises, hangs or answers nonsense: only the events that it does so for are tried again."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents.calling import outcomes
from agents.handlers import FAMILIES, default, load_registry
from agents.preparing import PARTS, prepare
from agents.registry import Example, Handler, Registry
from boost_streams.events import Event
from boost_streams.outcomes import Count, Failed, Outcome, Processed, TryAgain, processed
from boost_streams.records import EventRecord

NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)


class Asked:
    """A `prepare` that fails for some events, and knows how often it was asked."""

    def __init__(self, bad: set[int], how: str = "raise") -> None:
        self.bad = {UUID(int=number) for number in bad}
        self.how = how
        self.calls: list[int] = []
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, events: Sequence[Event], services: Any) -> Mapping[UUID, Any]:
        self.calls.append(len(events))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if any(event.id in self.bad for event in events):
                await self._misbehave()
            return {event.id: "ready" for event in events}
        finally:
            self.at_once -= 1

    async def _misbehave(self) -> None:
        if self.how == "raise":
            raise RuntimeError("on purpose")
        if self.how == "exit":
            raise SystemExit(3)
        if self.how == "cancel":
            raise asyncio.CancelledError
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if self.how != "deaf":
                    raise
                self.how = "late"  # heeds the second time, so that the test's loop can close


def handler(asked: Any, seconds: float = 5.0) -> Handler:
    def handle(event: Event, prepared: Any) -> Outcome:
        return processed(Count("prepared", (str(prepared),)))

    return Handler("video", "tracking", ("video_play",), handle, (Example("video_play", {}),), asked, seconds)


def events(count: int) -> list[Event]:
    return [Event(UUID(int=n), UUID(int=9), "video_play", NOON, NOON, {}) for n in range(1, count + 1)]


@pytest.mark.parametrize("bad", [{1}, {2000}, {17, 18, 1000}, set(range(100, 2000, 100))])
async def test_only_the_offenders_are_refused(bad: set[int]) -> None:
    asked = Asked(bad)
    prepared = await prepare(handler(asked), events(2000), None)
    assert set(prepared.refused) == {UUID(int=number) for number in bad}
    assert len(prepared.answers) == 2000 - len(bad)
    assert "RuntimeError: on purpose" in next(iter(prepared.refused.values()))
    assert asked.most_at_once <= PARTS


async def test_one_call_when_nothing_is_wrong() -> None:
    asked = Asked(set())
    assert len((await prepare(handler(asked), events(2000), None)).answers) == 2000
    assert asked.calls == [2000]


async def test_what_is_away_for_all_is_not_asked_for_each() -> None:
    asked = Asked(set(range(1, 2001)))
    prepared = await prepare(handler(asked), events(2000), None)
    assert len(prepared.refused) == 2000
    assert len(asked.calls) == 1 + PARTS + PARTS


@pytest.mark.parametrize("how", ["late", "deaf"])
async def test_one_that_answers_too_late_costs_a_few_deadlines(how: str) -> None:
    asked = Asked({700}, how)
    started = time.monotonic()
    prepared = await prepare(handler(asked, seconds=0.2), events(2000), None)
    assert list(prepared.refused) == [UUID(int=700)]
    assert "no answer within 0.2 s" in prepared.refused[UUID(int=700)]
    assert time.monotonic() - started < 2


async def test_narrowing_ends_in_time_though_many_are_late() -> None:
    asked = Asked(set(range(1, 2001, 3)), "late")
    started = time.monotonic()
    prepared = await prepare(handler(asked, seconds=0.1), events(2000), None)
    assert time.monotonic() - started < 3
    assert set(asked.bad) <= set(prepared.refused)
    assert len(prepared.refused) + len(prepared.answers) == 2000


async def test_an_answer_that_is_no_mapping_is_a_refusal() -> None:
    async def nonsense(events: Sequence[Event], services: Any) -> Any:
        return None

    prepared = await prepare(handler(nonsense), events(3), None)
    assert len(prepared.refused) == 3
    assert "not a mapping" in prepared.refused[UUID(int=1)]


@pytest.mark.parametrize("how", ["exit", "cancel"])
async def test_what_looks_like_an_end_in_prepare_ends_no_worker(how: str) -> None:
    prepared = await prepare(handler(Asked({2}, how)), events(3), None)
    assert list(prepared.refused) == [UUID(int=2)]


async def test_neighbours_are_handled_and_the_offender_is_tried_again() -> None:
    asked = Asked({5})
    registry = Registry([handler(asked), Handler.of_module(default)], FAMILIES)
    records = [
        EventRecord(UUID(int=n), UUID(int=9), "video_play", NOON, NOON, msgspec.Raw(b"{}")) for n in range(1, 21)
    ]
    settled = await outcomes(registry, records, None)
    assert [one.event.id.int for one in settled] == list(range(1, 21))
    assert {one.event.id.int for one in settled if isinstance(one.outcome, TryAgain)} == {5}
    assert all(isinstance(one.outcome, Processed) for one in settled if one.event.id.int != 5)


@pytest.mark.parametrize("how", ["raise", "exit", "cancel", "nothing"])
async def test_a_handler_that_raises_anything_fails_its_own_event(how: str) -> None:
    registry = load_registry(["tests.support.misbehaving"])
    payloads = [b"{}", msgspec.json.encode({"how": how}), b"{}"]
    records = [
        EventRecord(UUID(int=n), UUID(int=9), "misbehave", NOON, NOON, msgspec.Raw(payload))
        for n, payload in enumerate(payloads)
    ]
    settled = await outcomes(registry, records, None)
    assert [type(one.outcome) for one in settled] == [Processed, Failed, Processed]
