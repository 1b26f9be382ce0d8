"""The memory of requests is bounded in bytes; slow bodies give way to others, nothing is counted for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from boost_streams.errors import Overloaded
from web.byte_budget import SLOW_SECONDS, ByteBudget


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Deadline:
    """Stands for an `asyncio.Timeout` that somebody waits in."""

    ended = False

    def expired(self) -> bool:
        return False

    def reschedule(self, when: float | None) -> None:
        self.ended = True


def test_over_the_bound_is_refused_at_once_with_milliseconds() -> None:
    budget = ByteBudget(100)
    budget.take(60)
    with pytest.raises(Overloaded) as caught:
        budget.take(41)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after < 1
    budget.take(40)
    budget.give_back(60)
    assert budget.used == 40


def test_a_request_that_is_alone_passes_whatever_its_size() -> None:
    budget = ByteBudget(100)
    lease = budget.lease()
    for _ in range(5):
        lease.grow(50)
    with pytest.raises(Overloaded):
        budget.take(1)
    lease.release()
    budget.take(500)
    assert budget.used == 500


def test_a_lease_returns_all_that_it_took_once() -> None:
    budget = ByteBudget(100)
    lease = budget.lease()
    lease.grow(50)
    lease.shrink(20)
    lease.release()
    lease.release()
    assert budget.used == 0


def arriving(budget: ByteBudget, size: int) -> tuple[Any, Deadline]:
    lease, deadline = budget.lease(), Deadline()
    lease.begin(deadline)  # type: ignore[arg-type]
    lease.grow(size)
    return lease, deadline


def test_bodies_that_arrive_slowly_give_way_the_oldest_first() -> None:
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    old, old_deadline = arriving(budget, 40)
    younger, younger_deadline = arriving(budget, 40)
    clock.now += SLOW_SECONDS
    budget.take(50)
    assert (old.was_cut_off, younger.was_cut_off) == (True, False)
    assert (old_deadline.ended, younger_deadline.ended) == (True, False)
    assert budget.used == 90
    with pytest.raises(Overloaded):
        old.grow(1)
    old.release()
    assert budget.used == 90


def test_bodies_that_have_just_begun_are_left_alone() -> None:
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    lease, _ = arriving(budget, 60)
    clock.now += SLOW_SECONDS / 2
    with pytest.raises(Overloaded):
        budget.take(50)
    assert not lease.was_cut_off


def test_a_slow_body_makes_no_younger_one_give_way() -> None:
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    slow, _ = arriving(budget, 10)
    younger, _ = arriving(budget, 80)
    clock.now += 2 * SLOW_SECONDS
    with pytest.raises(Overloaded):
        slow.grow(20)
    assert not younger.was_cut_off


def test_a_body_that_is_whole_is_not_cut_off() -> None:
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    lease, _ = arriving(budget, 60)
    lease.end()
    clock.now += 2 * SLOW_SECONDS
    with pytest.raises(Overloaded):
        budget.take(50)


async def test_cutting_off_what_has_just_run_out_of_time_harms_nobody() -> None:
    """Its deadline has passed, and the task that waits has not been told of it yet."""
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    lease = budget.lease()
    fired = asyncio.Event()

    async def read() -> None:
        async with asyncio.timeout(60) as deadline:
            lease.begin(deadline)
            lease.grow(80)
            deadline.reschedule(0.0)
            asyncio.get_running_loop().call_soon(cut_off, deadline)
            await asyncio.Event().wait()

    def cut_off(deadline: asyncio.Timeout) -> None:
        assert deadline.expired()
        clock.now += SLOW_SECONDS
        budget.take(50)
        fired.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 5)
    assert fired.is_set()
    assert (lease.was_cut_off, budget.used) == (True, 50)


async def test_cutting_off_ends_the_wait() -> None:
    clock = Clock()
    budget = ByteBudget(100, clock=clock)
    lease = budget.lease()
    waiting = asyncio.Event()

    async def read() -> None:
        async with asyncio.timeout(60) as deadline:
            lease.begin(deadline)
            lease.grow(80)
            waiting.set()
            await asyncio.Event().wait()

    reader = asyncio.create_task(read())
    await waiting.wait()
    clock.now += SLOW_SECONDS
    budget.take(50)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader, 5)
    assert budget.used == 50
