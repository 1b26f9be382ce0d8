"""Long work in short turns: requests that the same event loop answers come in between (docs/adr/0023).

However many lists are worked on, one of them has a turn in a round of the event loop: with a turn each, a round would
take as long as all of them, and a request waits several rounds for its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

#: How long events are worked on before the loop has its turn (seconds), and after how many that is looked at.
TURN_SECONDS = 0.001
LOOK_EVERY = 64

_Item = TypeVar("_Item")
#: Of an event loop: who holds it has the next turn.
_next_turn: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def in_turns(items: Sequence[_Item]) -> AsyncIterator[Sequence[_Item]]:
    """Yield items a few at a time, in their order, and give the event loop a turn once a millisecond is over."""
    began = time.perf_counter()
    for first in range(0, len(items), LOOK_EVERY):
        if first and time.perf_counter() - began > TURN_SECONDS:
            await _turn()
            began = time.perf_counter()
        yield items[first : first + LOOK_EVERY]


async def _turn() -> None:
    """Wait for a round of the event loop in which no other list has a turn."""
    next_turn = _next_turn.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with next_turn:
        await asyncio.sleep(0)
