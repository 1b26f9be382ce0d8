"""A consumer that has stopped answering is told from a broker that is away."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiokafka import TopicPartition

from agents import positions
from agents.positions import STALLED_SECONDS, ConsumerPositions
from agents.progress import ConsumerProgress

PARTITION = TopicPartition("raw-events", 0)


class _Consumer:
    """Stands in for a consumer thread that hangs, which no real one does at will."""

    _committed_offset: ClassVar[dict[Any, int]] = {}

    def __init__(self) -> None:
        self.answers = False

    def assignment(self) -> list[Any]:
        return [PARTITION]

    async def earliest_offsets(self, *_: Any) -> dict[Any, int]:
        return await self._offsets()

    async def highwaters(self, *_: Any) -> dict[Any, int]:
        return await self._offsets()

    async def _offsets(self) -> dict[Any, int]:
        if not self.answers:
            await asyncio.Event().wait()
        return {PARTITION: 0}


class _World:
    def __init__(self) -> None:
        self.now = 0.0
        self.broker_there = True
        self.consumer = _Consumer()
        recovered = asyncio.Event()
        recovered.set()
        self.app = SimpleNamespace(
            started=True,
            should_stop=False,
            rebalancing=False,
            tables=SimpleNamespace(recovery=SimpleNamespace(completed=recovered)),
            consumer=self.consumer,
        )
        self.positions = ConsumerPositions(
            self.app, ConsumerProgress(), ["raw-events"], lambda: self.broker_there, clock=lambda: self.now
        )

    async def ask(self) -> None:
        with pytest.raises(TimeoutError):
            await self.positions()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> _World:
    monkeypatch.setattr(positions, "_OFFSETS_SECONDS", 0.01)
    return _World()


async def test_silence_beside_a_broker_that_answers_is_a_stall(world: _World) -> None:
    await world.ask()
    world.now = STALLED_SECONDS - 1
    await world.ask()
    assert not world.positions.stalled
    world.now = STALLED_SECONDS
    await world.ask()
    assert world.positions.stalled


async def test_while_the_broker_is_away_silence_says_nothing(world: _World) -> None:
    await world.ask()
    world.broker_there = False
    world.now = STALLED_SECONDS + 1
    await world.ask()
    assert not world.positions.stalled
    world.broker_there = True
    await world.ask()
    assert not world.positions.stalled


async def test_an_answer_ends_the_silence(world: _World) -> None:
    await world.ask()
    world.consumer.answers = True
    assert await world.positions() == [("raw-events", 0, None)]
    world.consumer.answers = False
    world.now = STALLED_SECONDS + 1
    await world.ask()
    assert not world.positions.stalled
