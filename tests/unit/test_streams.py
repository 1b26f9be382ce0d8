"""Messages that come alone are taken at once; those that come close behind others are taken together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from agents.progress import ConsumerProgress
from agents.streams import Taken, ready_batches

PACE = 0.05


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
    return ready_batches(stream, ConsumerProgress(), most=10, weight=weight, pace=PACE)


async def offsets(batches: AsyncIterator[list[Taken]]) -> list[int]:
    async with asyncio.timeout(5):
        return [taken.offset for taken in await anext(batches)]


async def test_what_comes_close_behind_is_taken_together(stream: _Stream) -> None:
    batches = batches_of(stream)
    stream.send()
    assert await offsets(batches) == [0]
    following = asyncio.create_task(offsets(batches))
    for _ in range(4):
        stream.send()
        await asyncio.sleep(PACE / 20)
    assert await following == [1, 2, 3, 4]


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


async def test_a_message_that_comes_alone_does_not_wait(stream: _Stream, timers: list[float]) -> None:
    batches = batches_of(stream)
    stream.send()
    await anext(batches)
    await asyncio.sleep(PACE)
    timers.clear()
    stream.send()
    await anext(batches)
    assert timers == []


async def test_enough_does_not_wait(stream: _Stream, timers: list[float]) -> None:
    batches = batches_of(stream)
    stream.send()
    await anext(batches)
    stream.send(weight=10)
    stream.send()
    assert [taken.offset for taken in await anext(batches)] == [1]
    assert timers == []
    assert [taken.offset for taken in await anext(batches)] == [2]
    assert len(timers) == 1
