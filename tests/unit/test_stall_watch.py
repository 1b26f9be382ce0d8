"""The watch takes a loop for stuck by its own turns, not by the clock."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from agents.stall_watch import TICK_SECONDS, Stall, StallWatch, resident_bytes
from agents.streams import EXIT_UNACKNOWLEDGED
from boost_streams.settings import load_settings

MIB = 1 << 20


class Memory:
    def __init__(self) -> None:
        self.bytes = 100 * MIB

    def __call__(self) -> int:
        return self.bytes


def test_a_loop_that_gets_on_is_never_stuck() -> None:
    stall = Stall(1, MIB, Memory())
    for _ in range(1000):
        stall.beats += 1
        assert stall.look() is None


def test_a_loop_is_stuck_after_so_many_turns_of_the_watch() -> None:
    stall = Stall(1, MIB, Memory())
    turns = round(1 / TICK_SECONDS)
    assert [stall.look() for _ in range(turns - 1)] == [None] * (turns - 1)
    assert stall.look() == "blocked the event loop for 1 s"


def test_one_beat_starts_the_count_anew() -> None:
    stall = Stall(1, MIB, Memory())
    for _ in range(10):
        assert [stall.look(), stall.look(), stall.look()] == [None, None, None]
        stall.beats += 1
        assert stall.look() is None


def test_memory_counts_only_while_the_loop_makes_no_turn() -> None:
    memory = Memory()
    stall = Stall(3600, 200 * MIB, memory)
    for _ in range(5):
        memory.bytes += 500 * MIB
        stall.beats += 1
        assert stall.look() is None
    memory.bytes += 201 * MIB
    assert stall.look() is None
    assert stall.look() == "took 201 MiB of memory while nothing else got a turn"


def test_the_memory_of_this_process_can_be_read() -> None:
    assert 10 * MIB < resident_bytes() < 10_000 * MIB


async def test_a_blocked_loop_ends_the_process_with_the_code_that_says_start_me_again() -> None:
    ends: list[int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        ends.append(code)
        ended.set()

    watch = StallWatch(load_settings({"HANDLER_STALL_SECONDS": "1"}), end)
    await watch.start()
    try:
        await asyncio.sleep(3 * TICK_SECONDS)
        assert ends == []
        deadline = time.monotonic() + 10
        while not ended.is_set() and time.monotonic() < deadline:
            pass  # as a handler in an endless loop does
    finally:
        await watch.stop()
    assert ends[0] == EXIT_UNACKNOWLEDGED


@pytest.mark.parametrize("seconds", ["0"])
async def test_watching_can_be_turned_off(seconds: str) -> None:
    watch = StallWatch(load_settings({"HANDLER_STALL_SECONDS": seconds}))
    before = set(threading.enumerate())  # the watch of another test may be about to end
    await watch.start()
    assert "stall watch" not in {thread.name for thread in threading.enumerate() if thread not in before}
    await watch.stop()
