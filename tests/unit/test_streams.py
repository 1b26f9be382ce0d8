"""A list holds what came together; who takes long over a list gets a larger one next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from agents import streams
from agents.progress import ConsumerProgress
from agents.streams import Taken, ready_batches


class _Stream:
    """Stands in for a Faust stream, which none can be made of without a broker."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self._offset = 0

    def send(self, weight: int = 1) -> None:
        message = SimpleNamespace(topic="t", partition=0, offset=self._offset, value=b"")
        value = SimpleNamespace(weight=weight, published_at=None)
        self.messages.put_nowait(SimpleNamespace(value=value, message=message))
        self._offset += 1

    async def events(self) -> AsyncIterator[Any]:
        while True:
            yield await self.messages.get()


@pytest.fixture
def stream() -> _Stream:
    return _Stream()


def batches_of(stream: _Stream) -> AsyncIterator[list[Taken]]:
    weight = lambda value: value.weight  # noqa: E731
    return ready_batches(stream, ConsumerProgress(), most=10, weight=weight)


async def offsets(batches: AsyncIterator[list[Taken]]) -> list[int]:
    async with asyncio.timeout(5):
        return [taken.offset for taken in await anext(batches)]


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays (seconds) of the timers that were set."""
    loop, delays = asyncio.get_running_loop(), []
    later = loop.call_later

    def noted(delay: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
        delays.append(delay)
        return later(delay, *arguments, **named)

    monkeypatch.setattr(loop, "call_later", noted)
    return delays


async def test_the_rest_of_a_fetch_is_waited_for(stream: _Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GATHER_SECONDS", 0.05)
    batches = batches_of(stream)
    first = asyncio.create_task(offsets(batches))
    for _ in range(4):
        stream.send()
        await asyncio.sleep(0.005)
    assert await first == [0, 1, 2, 3]


async def test_a_message_that_comes_alone_waits_only_for_the_rest_of_its_fetch(
    stream: _Stream, timers: list[float]
) -> None:
    stream.send()
    assert await offsets(batches_of(stream)) == [0]
    assert [delay for delay in timers if delay < 1] == [streams.GATHER_SECONDS]


async def test_who_takes_long_leaves_a_multiple_of_that_time_but_not_for_ever(
    stream: _Stream, timers: list[float]
) -> None:
    now = 0.0
    weight = lambda value: value.weight  # noqa: E731
    batches = ready_batches(stream, ConsumerProgress(), most=10, weight=weight, clock=lambda: now)
    waits = []
    for spent in (0.0, 0.01, 5.0, 0.0):
        stream.send()
        timers.clear()
        await anext(batches)
        waits += timers
        now += spent
    assert waits[0] == streams.GATHER_SECONDS
    assert waits[1] == streams.GATHER_SECONDS
    assert waits[2] == pytest.approx((streams.PACE_FACTOR - 1) * 0.01)
    assert waits[3] == streams.GATHER_SECONDS  # 5 s are more than the longest pace already


async def test_enough_does_not_wait(stream: _Stream, timers: list[float]) -> None:
    batches = batches_of(stream)
    stream.send(weight=10)
    stream.send()
    assert [taken.offset for taken in await anext(batches)] == [0]
    assert timers == []
    assert [taken.offset for taken in await anext(batches)] == [1]
    assert len(timers) == 1


async def test_while_the_worker_catches_up_lists_are_taken_further_apart(stream: _Stream, timers: list[float]) -> None:
    now = 0.0
    weight = lambda value: value.weight  # noqa: E731
    batches = ready_batches(
        stream, ConsumerProgress(), most=10, weight=weight, clock=lambda: now, rest_after=lambda seconds: 2 * seconds
    )
    stream.send()
    await anext(batches)
    now += 0.002
    timers.clear()
    stream.send()
    await anext(batches)
    assert timers == [pytest.approx(0.004), pytest.approx(streams.CATCHING_UP_PACE_SECONDS - 0.002)]


async def test_a_rest_holds_for_full_lists_too(stream: _Stream, timers: list[float]) -> None:
    weight = lambda value: value.weight  # noqa: E731
    batches = ready_batches(stream, ConsumerProgress(), most=10, weight=weight, rest_after=lambda _: 0.004)
    for _ in range(2):
        stream.send(weight=10)
        await anext(batches)
    assert timers == [0.004]
