"""Two stages: order is kept, at most two batches are in hand, and whatever fails comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents.streams import in_two_stages


class Stages:
    """Notes what happens; the second stage waits for its turn."""

    def __init__(self, *batches: str, then_wait: bool = False) -> None:
        self.batches = batches
        self.then_wait = then_wait
        self.happened: list[str] = []
        self.let_second = asyncio.Semaphore(0)

    async def read(self) -> AsyncIterator[Any]:
        for batch in self.batches:
            yield batch
        if self.then_wait:
            await asyncio.Event().wait()

    async def first(self, batch: Any) -> str:
        self.happened.append(f"first {batch}")
        return f"{batch}!"

    async def second(self, batch: Any, made: str) -> None:
        await self.let_second.acquire()
        self.happened.append(f"second {batch} {made}")

    async def run(self) -> None:
        await in_two_stages(self.read(), self.first, self.second)


async def test_the_first_stage_is_one_batch_ahead_and_no_more() -> None:
    stages = Stages("a", "b", "c")
    running = asyncio.create_task(stages.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert stages.happened == ["first a", "first b"]
    for _ in stages.batches:
        stages.let_second.release()
    await running
    assert stages.happened == ["first a", "first b", "second a a!", "first c", "second b b!", "second c c!"]


async def test_a_second_stage_that_fails_comes_out_though_nothing_more_arrives() -> None:
    class Failing(Stages):
        async def second(self, batch: Any, made: str) -> None:
            raise ValueError(made)

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await Failing("a", then_wait=True).run()
    assert [str(error) for error in caught.value.exceptions] == ["a!"]


async def test_cancelling_ends_both_stages() -> None:
    stages = Stages("a", then_wait=True)
    running = asyncio.create_task(stages.run())
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    stages.let_second.release()
    await asyncio.sleep(0.01)
    assert stages.happened == ["first a"]
