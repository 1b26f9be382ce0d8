"""How far apart a worker fetches and takes its lists: the busier it is, the further (docs/adr/0012)."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Up to which share of its time a worker takes what comes at once, and from which on as far apart as it may.
IDLE_SHARE = 0.25
BUSY_SHARE = 0.65
#: How far apart lists are taken, and fetches begun, by a worker that is busy (seconds).
LISTS_APART_SECONDS = 0.12
FETCHES_APART_SECONDS = 0.05
#: Over how long it is measured how busy the worker is (seconds).
WINDOW_SECONDS = 0.25


class Pace:
    """Measures how much of its time a worker is busy; says how far apart it takes its work.

    What a fetch, a list and its settlement cost is shared by all events in it. A worker that has time to spare settles
    what comes at once; one that has none lets more come together, and so settles more.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._began = clock()
        self._cpu_began = cpu_clock()
        self._stretch = 0.0

    def between_lists(self) -> float:
        """Return how long after one list the next is taken at the earliest (seconds), unless it is full."""
        return self._now() * LISTS_APART_SECONDS

    def between_fetches(self) -> float:
        """Return how long after one fetch the next begins at the earliest (seconds)."""
        return self._now() * FETCHES_APART_SECONDS

    def _now(self) -> float:
        """Return where the worker stands between idle (0) and busy (1)."""
        now = self._clock()
        if now - self._began >= WINDOW_SECONDS:
            cpu = self._cpu_clock()
            share = (cpu - self._cpu_began) / (now - self._began)
            self._stretch = min(1.0, max(0.0, (share - IDLE_SHARE) / (BUSY_SHARE - IDLE_SHARE)))
            self._began, self._cpu_began = now, cpu
        return self._stretch
