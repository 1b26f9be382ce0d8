"""Waiting for a condition: the only way in which a test sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.2


@overload
async def eventually(condition: Callable[[], Awaitable[T]], *, deadline: float = 5.0, what: str | None = None) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, deadline: float = 5.0, what: str | None = None) -> T: ...
async def eventually(condition: Callable[[], Any], *, deadline: float = 5.0, what: str | None = None) -> Any:
    """Call `condition` until what it returns is true, and return that.

    An AssertionError of the condition means "not yet"; any other exception ends the test at once.

    Raises:
        AssertionError: It was not so within `deadline` seconds; says what the last call gave.
    """
    limit = time.monotonic() + deadline
    pause = _PAUSE_SECONDS
    while True:
        last: object
        try:
            answer = condition()
            value = await answer if inspect.isawaitable(answer) else answer
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() >= limit:
            named = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{named} did not hold within {deadline:g} s; at last: {last!r}")
        await asyncio.sleep(min(pause, max(0.0, limit - time.monotonic())))
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
