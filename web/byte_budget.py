"""How many bytes of requests may be in memory at once: bodies that arrive, events that wait for their commit.

Bytes are taken as they come, never ahead of them, so whoever promises much and sends nothing holds nothing. When all is
taken, bodies that have been arriving for long are cut off first: they make room for those that are whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from boost_streams.errors import Overloaded

#: When a client that was refused for want of memory should come again (seconds).
RETRY_SECONDS = 0.2
#: A body that has been arriving for longer than this gives way to others when memory is short (seconds).
SLOW_SECONDS = 1.0


class ByteBudget:
    """The bound, and what is taken of it (bytes)."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.used = 0
        self._clock = clock
        self._arriving: dict[Lease, float] = {}

    def take(self, size: int, asker: Lease | None = None) -> None:
        """Take bytes. A request that is alone passes, whatever its size.

        Raises:
            Overloaded: There are not as many left.
        """
        others = self.used - (asker.held if asker is not None else 0)
        if others > 0 and self.used + size > self.most:
            self._cut_slow_bodies(size, asker)
            if self.used + size > self.most:
                raise overloaded()
        self.used += size

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        self.used -= size

    def lease(self) -> Lease:
        """Begin to count what one request holds."""
        return Lease(self)

    def arriving(self, lease: Lease) -> None:
        """Note that a body has begun to arrive."""
        self._arriving[lease] = self._clock()

    def arrived(self, lease: Lease) -> None:
        """Note that a body is whole, or will not be."""
        self._arriving.pop(lease, None)

    def _cut_slow_bodies(self, size: int, asker: Lease | None) -> None:
        """Cut off bodies that began long ago, and before the asker's, until there is room."""
        slow_since = self._clock() - SLOW_SECONDS
        for lease, since in list(self._arriving.items()):
            if lease is asker or since > slow_since or self.used + size <= self.most:
                return
            lease.cut_off()


class Lease:
    """What one request holds of a budget. `release` it at the end."""

    __slots__ = ("_budget", "_deadline", "held", "was_cut_off")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._deadline: asyncio.Timeout | None = None
        self.held = 0
        self.was_cut_off = False

    def grow(self, size: int) -> None:
        """Take bytes more.

        Raises:
            Overloaded: There are not as many left, or this request was cut off.
        """
        if self.was_cut_off:
            raise overloaded()
        self._budget.take(size, self)
        self.held += size

    def shrink(self, size: int) -> None:
        """Return some of the bytes."""
        self._budget.give_back(size)
        self.held -= size

    def release(self) -> None:
        """Return all bytes."""
        self._budget.give_back(self.held)
        self.held = 0

    def begin(self, deadline: asyncio.Timeout) -> None:
        """Note that its body begins to arrive; whoever needs room more may end the wait at `deadline`."""
        self._deadline = deadline
        self._budget.arriving(self)

    def end(self) -> None:
        """Note that its body is whole, or will not be."""
        self._deadline = None
        self._budget.arrived(self)

    def cut_off(self) -> None:
        """Take its bytes away and end its wait."""
        self.was_cut_off = True
        self.release()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(0.0)
        self.end()


def overloaded() -> Overloaded:
    """Build the refusal for want of memory."""
    return Overloaded("too many events are waiting to be stored; retry in a moment", retry_after=RETRY_SECONDS)
