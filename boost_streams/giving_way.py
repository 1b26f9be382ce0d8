"""How a worker that catches up leaves room for the requests that it answers meanwhile (docs/adr/0025)."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Over how long it is counted what comes in and what is settled (seconds).
WINDOW_SECONDS = 0.25
#: A worker catches up while it settles over so many times what it takes in.
CATCHING_UP = 4.0
#: How long it rests then after a piece of work, as a multiple of what that took, and at most (seconds).
REST_FACTOR = 2.0
LONGEST_REST_SECONDS = 0.25


class GivingWay:
    """Counts what a worker takes in and what it settles; says how long to rest between two pieces of work.

    A worker that takes nothing in, as one without the role `web`, never rests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._taken_in = self._settled = 0
        self._catching_up = False
        self._events_per_second = 0.0

    def events_per_second(self) -> float:
        """Return how many events a second were taken in or settled of late, whichever were more."""
        self._look()
        return self._events_per_second

    def took_in(self, events: int) -> None:
        """Count events that were accepted."""
        self._look()
        self._taken_in += events

    def settled(self, events: int) -> None:
        """Count events that were settled."""
        self._look()
        self._settled += events

    def rest_after(self, seconds: float) -> float:
        """Return how long to rest after work that took so long (both in seconds); 0 unless the worker catches up."""
        self._look()
        return min(REST_FACTOR * seconds, LONGEST_REST_SECONDS) if self._catching_up else 0.0

    def _look(self) -> None:
        now = self._clock()
        if now - self._began < WINDOW_SECONDS:
            return
        self._catching_up = 0 < CATCHING_UP * self._taken_in < self._settled
        self._events_per_second = max(self._taken_in, self._settled) / (now - self._began)
        self._began, self._taken_in, self._settled = now, 0, 0
