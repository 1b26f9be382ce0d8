"""Long work gives way: what else the event loop has to do gets its turn in between."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from types import ModuleType
from uuid import UUID

import msgspec
import pytest

from agents.calling import outcomes
from agents.effects import Settled
from agents.registry import Handler, Registry
from agents.settlement import add_up, first_attempts_of
from agents.turns import LOOK_EVERY, in_turns
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, processed
from boost_streams.records import EventRecord

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
#: What each event takes (seconds): with the sixty-four between two looks more than a turn.
EACH = 0.0002
COUNT = 10 * LOOK_EVERY


class Ticks:
    """Counts how often the event loop had a turn."""

    def __init__(self) -> None:
        self.count = 0

    async def __aenter__(self) -> Ticks:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        self.count = 0
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


def busy() -> None:
    until = time.perf_counter() + EACH
    while time.perf_counter() < until:
        pass


def slow_registry() -> Registry:
    module = ModuleType("tests.slow")

    def handle(_: Event) -> Outcome:
        busy()
        return processed()

    vars(module).update(FAMILY="default", EVENT_TYPES=(), EXAMPLES=(), handle=handle)
    return Registry([Handler.of_module(module)], ("default",))


def records(count: int) -> list[EventRecord]:
    return [EventRecord(UUID(int=number), UUID(int=1), "x", NOON, NOON, msgspec.Raw(b"{}")) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, LOOK_EVERY, LOOK_EVERY + 1, 1000])
async def test_everything_comes_once_and_in_its_order(count: int) -> None:
    items = list(range(count))
    assert [item async for part in in_turns(items) for item in part] == items


async def test_handlers_give_way() -> None:
    registry = slow_registry()
    async with Ticks() as ticks:
        settled = await outcomes(registry, records(COUNT), None)
        assert len(settled) == COUNT
        assert ticks.count >= 9


async def test_adding_up_gives_way_and_comes_to_the_same() -> None:
    said = processed(*(Count("views", (str(number),)) for number in range(400)))
    settled = [Settled(Event(UUID(int=n), UUID(int=1), "x", NOON, NOON, {}), said) for n in range(1, COUNT + 1)]
    async with Ticks() as ticks:
        added_up = await add_up(settled, slow_registry())
        assert ticks.count >= 9
    assert added_up == first_attempts_of(settled, slow_registry())
    assert added_up is not None
    assert len(added_up.additions) == 401


async def test_one_list_has_a_turn_in_a_round() -> None:
    """Lists that are worked on at once take turns; a round of the loop is no longer for that."""
    rounds, turns = 0, []

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def work() -> None:
        async for part in in_turns(list(range(4 * LOOK_EVERY))):
            if part[0]:  # the first part of a list waits for nobody
                turns.append(rounds)
            for _ in part:
                busy()

    counting = asyncio.create_task(count_rounds())
    await asyncio.gather(*(work() for _ in range(5)))
    counting.cancel()
    assert len(turns) == 15
    assert len(set(turns)) == 15
