"""Fetches begin as far apart, and wait at the broker as long, as the pace says."""

from __future__ import annotations

from typing import Any

import pytest

from boost_streams import transport
from boost_streams.transport import AcknowledgedConsumer


class _Consumer(AcknowledgedConsumer):
    """One that was never started: only what it waits for before a fetch is asked."""

    def __init__(self, apart: float | None) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self.waits: list[int] = []
        self.apart = apart
        if apart is not None:
            self.pace = self

    def between_fetches(self) -> float:
        assert self.apart is not None
        return self.apart

    def fetch_wait(self) -> float:
        return 0.0126

    def _let_fetches_wait(self, milliseconds: int) -> None:
        self.waits.append(milliseconds)

    async def sleep(self, seconds: Any, *, loop: Any = None) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds


@pytest.mark.parametrize(
    ("apart", "slept"),
    [(None, []), (0.0, []), (0.05, [0.04, 0.05])],
)
async def test_a_fetch_waits_for_its_time(
    monkeypatch: pytest.MonkeyPatch, apart: float | None, slept: list[float]
) -> None:
    consumer = _Consumer(apart)
    monkeypatch.setattr(transport.time, "monotonic", lambda: consumer.now)
    for spent in (0.01, 0.0, 3.0, 0.0):
        await consumer._wait_for_more()
        consumer.now += spent
    assert consumer.slept == slept
    assert set(consumer.waits) == (set() if apart is None else {13})


async def test_a_consumer_with_a_wait_of_its_own_keeps_it() -> None:
    consumer = _Consumer(0.0)
    consumer.fetch_wait_ms = 25
    await consumer._wait_for_more()
    assert consumer.waits == []
