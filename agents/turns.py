"""Long work in short turns: requests that the same event loop answers come in between (docs/adr/0023)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

#: How long events are worked on before the loop has its turn (seconds), and after how many that is looked at.
TURN_SECONDS = 0.001
LOOK_EVERY = 64

_Item = TypeVar("_Item")


async def in_turns(items: Sequence[_Item]) -> AsyncIterator[Sequence[_Item]]:
    """Yield items a few at a time, in their order, and give the event loop a turn once a millisecond is over."""
    began = time.perf_counter()
    for first in range(0, len(items), LOOK_EVERY):
        if first and time.perf_counter() - began > TURN_SECONDS:
            await asyncio.sleep(0)
            began = time.perf_counter()
        yield items[first : first + LOOK_EVERY]
