"""What is unsettled over time: counted several times a second, and how fast it goes down."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.database import ask
from bench.errors import BenchError

_LOOK_SECONDS = 0.02
#: A backlog of which this share is left is drained: what arrives meanwhile is always a little under way.
_NEARLY_NOTHING = 0.02

Sample = tuple[float, int]


class BacklogSampler:
    """Counts what is unsettled every so many seconds, on a thread: `samples` of (seconds since its start, events)."""

    def __init__(self, url: str, every: float = 0.25) -> None:
        self._url = url
        self._every = every
        self._started = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> BacklogSampler:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def elapsed(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def wait_below(self, count: int, deadline: float) -> None:
        """Wait until less than `count` was seen.

        Raises:
            BenchError: It took longer than `deadline` seconds.
        """
        limit = self.elapsed + deadline
        while not (self.samples and self.samples[-1][1] < count):
            if self.elapsed > limit:
                raise BenchError(f"none of {count} events was settled within {deadline:g} s")
            time.sleep(_LOOK_SECONDS)

    def _run(self) -> None:
        with ask(self._url) as question:
            while not self._stop.wait(self._every):
                count = question.unsettled()
                self.samples.append((round(self.elapsed, 3), count))


@dataclass(frozen=True, slots=True)
class Drain:
    """How a backlog went down: when (seconds, on the clock of the samples), and how fast.

    `first` is when something was seen to be settled. `rate` is the net fall, events per second from `began` to `ended`:
    what arrived meanwhile is taken off. `emptied` tells whether it ended because nearly nothing was left.
    """

    first: float
    began: float
    ended: float
    rate: float
    emptied: bool

    def share_of(self, begin: float, end: float) -> float:
        """Return the share of the time from `begin` to `end` that passed before the backlog was gone."""
        if not self.emptied or self.ended >= end:
            return 1.0
        return max(0.0, self.ended - begin) / (end - begin)


def drain_of(samples: Sequence[Sample], until: float) -> Drain:
    """Return how the backlog of the first sample went down, until nearly nothing was left or the time was `until`.

    It begins at the last sample before the first fall: what fell by then took the time since.

    Raises:
        ValueError: Nothing fell.
    """
    backlog = samples[0][1] if samples else 0
    falling = next((number for number, (_, count) in enumerate(samples) if count < backlog), None)
    within = [] if falling is None else [sample for sample in samples[falling:] if sample[0] <= until]
    if falling is None or not within:
        raise ValueError("nothing was settled")
    began = samples[falling - 1][0]
    nothing = backlog * _NEARLY_NOTHING
    ended, left = next((sample for sample in within if sample[1] <= nothing), within[-1])
    return Drain(within[0][0], began, ended, (backlog - left) / (ended - began), left <= nothing)
