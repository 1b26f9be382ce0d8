"""How far apart a worker fetches, takes its lists and sends: the busier it is, the further (docs/adr/0012)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

#: Up to which share of its time a worker takes what comes at once, and from which on as far apart as it may.
IDLE_SHARE = 0.25
BUSY_SHARE = 0.65
#: The same for how many events it takes in or settles a second: few of them have no need to come together.
FEW_PER_SECOND = 750.0
MANY_PER_SECOND = 2000.0
#: How far apart lists are taken, fetches begun and messages sent by a worker that is busy (seconds).
LISTS_APART_SECONDS = 0.12
FETCHES_APART_SECONDS = 0.05
SENDS_APART_SECONDS = 0.05
#: How long a fetch waits at the broker for more: while next to nothing comes, in a worker with time to spare, and in
#: one that has none (seconds); and below how many events a second next to nothing comes.
QUIET_FETCH_WAIT_SECONDS = 0.015
FETCH_WAIT_SECONDS = 0.008
BUSY_FETCH_WAIT_SECONDS = 0.030
QUIET_PER_SECOND = 50.0
#: Over how long it is measured how busy the worker is (seconds).
WINDOW_SECONDS = 0.25
#: Of the main thread, which has the event loop: nanoseconds for which it ran, for which it was ready and waited for a
#: processor, and how often it ran (Linux, Documentation/scheduler/sched-stats.rst).
_SCHEDULED = Path("/proc/self/schedstat")


def busy_seconds() -> float:
    """Return for how long the event loop has run or waited for a processor; where that is unknown, the CPU time.

    Where processors are short, a worker that is given half of one has no time to spare: it counts as busy.
    """
    try:
        ran, waited, _ = _SCHEDULED.read_text().split()
        return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        return time.process_time()


class Pace:
    """Measures how much of its time a worker is busy; says how far apart it takes its work.

    `events_per_second` says how many events it takes in or settles.
    What a request to the broker, a list and its settlement cost is shared by all events in it. A worker that has time
    to spare sends and settles what comes at once; one that has none lets more come together, and so settles more.
    """

    def __init__(
        self,
        events_per_second: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
        busy_clock: Callable[[], float] = busy_seconds,
    ) -> None:
        self._events_per_second = events_per_second
        self._clock = clock
        self._busy_clock = busy_clock
        self._began = clock()
        self._busy_began = busy_clock()
        self._stretch = 0.0

    def between_lists(self) -> float:
        """Return how long after one list the next is taken at the earliest (seconds), unless it is full."""
        return self._now() * LISTS_APART_SECONDS

    def between_fetches(self) -> float:
        """Return how long after one fetch the next begins at the earliest (seconds)."""
        return self._now() * FETCHES_APART_SECONDS

    def fetch_wait(self) -> float:
        """Return how long a fetch may wait at the broker for more than the first message (seconds)."""
        stretch = self._now()
        if self._events_per_second() < QUIET_PER_SECOND:
            return QUIET_FETCH_WAIT_SECONDS
        return FETCH_WAIT_SECONDS + stretch * (BUSY_FETCH_WAIT_SECONDS - FETCH_WAIT_SECONDS)

    def between_sends(self) -> float:
        """Return how long after messages were sent the next are sent at the earliest (seconds)."""
        return self._now() * SENDS_APART_SECONDS

    def _now(self) -> float:
        """Return where the worker stands between one that has time to spare (0) and one that has none (1)."""
        now = self._clock()
        if now - self._began >= WINDOW_SECONDS:
            busy = self._busy_clock()
            share = _between(IDLE_SHARE, (busy - self._busy_began) / (now - self._began), BUSY_SHARE)
            self._stretch = share * _between(FEW_PER_SECOND, self._events_per_second(), MANY_PER_SECOND)
            self._began, self._busy_began = now, busy
        return self._stretch


def _between(low: float, value: float, high: float) -> float:
    """Return where a value stands between two others: 0 up to the lower one, 1 from the higher one on."""
    return min(1.0, max(0.0, (value - low) / (high - low)))
