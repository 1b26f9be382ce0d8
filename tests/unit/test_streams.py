"""A list holds what came together, and what comes until the pace lets it be taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agents import streams
from agents.progress import ConsumerProgress
from agents.streams import Taken, ready_batches

GATHER = 1000 * streams.GATHER_SECONDS


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
            message = await self.messages.get()
            if isinstance(message, Exception):
                raise message
            yield message


@pytest.fixture
def stream() -> _Stream:
    return _Stream()


def batches_of(stream: _Stream) -> AsyncIterator[list[Taken]]:
    weight = lambda value: value.weight  # noqa: E731
    return ready_batches(stream, ConsumerProgress(), most=10, weight=weight)


def paced(stream: _Stream, clock: Callable[[], float], **pace: Any) -> AsyncIterator[list[Taken]]:
    weight = lambda value: value.weight  # noqa: E731
    return ready_batches(stream, ConsumerProgress(), most=10, weight=weight, clock=clock, **pace)


async def offsets(batches: AsyncIterator[list[Taken]]) -> list[int]:
    async with asyncio.timeout(5):
        return [taken.offset for taken in await anext(batches)]


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays (milliseconds) of the timers that were set."""
    loop, delays = asyncio.get_running_loop(), []
    at = loop.call_at

    def noted(when: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
        delays.append(round(1000 * (when - loop.time())))
        return at(when, *arguments, **named)

    monkeypatch.setattr(loop, "call_at", noted)
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
    assert [delay for delay in timers if delay < 1000] == [GATHER]


async def test_lists_are_taken_as_far_apart_as_the_pace_says(stream: _Stream, timers: list[float]) -> None:
    now = 0.0
    paces = iter([0.0, 0.1, 0.1])
    batches = paced(stream, lambda: now, apart=lambda: next(paces))
    waits = []
    for spent in (0.0, 0.03, 5.0, 0.0):
        stream.send()
        timers.clear()
        await anext(batches)
        waits += timers
        now += spent
    assert waits == [GATHER, GATHER, 70, GATHER]


async def test_a_full_list_is_taken_before_its_time(stream: _Stream) -> None:
    batches = paced(stream, lambda: 0.0, apart=lambda: 60.0)
    stream.send()
    assert await offsets(batches) == [0]
    stream.send(weight=4)
    taken = asyncio.create_task(offsets(batches))
    await asyncio.sleep(0.05)
    assert not taken.done()
    stream.send(weight=6)
    stream.send()
    assert await taken == [1, 2]


async def test_so_is_all_that_may_wait(stream: _Stream) -> None:
    batches = paced(stream, lambda: 0.0, apart=lambda: 60.0)
    stream.send()
    assert await offsets(batches) == [0]
    for _ in range(streams.MOST_WAITING + 5):
        stream.send(weight=0)
    assert len(await offsets(batches)) == streams.MOST_WAITING


async def test_what_a_stream_fails_with_comes_behind_what_it_gave(stream: _Stream) -> None:
    batches = paced(stream, lambda: 0.0, apart=lambda: 60.0)
    stream.send()
    assert await offsets(batches) == [0]
    stream.send()
    stream.messages.put_nowait(ValueError("gone"))
    assert await offsets(batches) == [1]
    with pytest.raises(ValueError, match="gone"):
        await offsets(batches)


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
    batches = paced(stream, lambda: now, rest_after=lambda seconds: 2 * seconds)
    stream.send()
    await anext(batches)
    now += 0.002
    timers.clear()
    stream.send()
    await anext(batches)
    assert timers == [4, 1000 * streams.CATCHING_UP_PACE_SECONDS - 2]


async def test_a_rest_holds_for_full_lists_too(stream: _Stream, timers: list[float]) -> None:
    batches = paced(stream, lambda: 0.0, rest_after=lambda _: 0.004)
    for _ in range(2):
        stream.send(weight=10)
        await anext(batches)
    assert timers == [4]
