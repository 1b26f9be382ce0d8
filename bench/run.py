"""What a row is given: the servers, how much to measure, and where to say how it goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.load.wrk import Requests
from bench.results import Goal, Row
from bench.site import Site

#: The path that takes many events at once, and how many the bench sends in one request.
BATCH_PATH = "/events/batch"
BATCH_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: rounds, seconds of one measurement, events where a row counts them.

    `connections` are those of the rows that have several; `message_ids` which variants run.
    """

    rounds: int
    seconds: float
    events: int = 0
    connections: tuple[int, ...] = (64, 256)
    message_ids: tuple[bool, ...] = (False, True)


@dataclass
class Bench:
    """One run: the site, the effort of the group that is measured now, and the rows measured before."""

    site: Site
    effort: Effort
    wanted: Callable[[str], bool] = lambda _: True
    done: dict[str, Row] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line of progress with the minutes and seconds since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)

    def show_round(self, number: int, name: str, values: dict[str, float]) -> None:
        """Print what a round measured, where the next one finds the page cache as it is: where it only reads."""
        shown = ", ".join(f"{key} {value:,.4g}" for key, value in values.items())
        self.say(f"{name} round {number + 1}: {shown}")

    def end_round(self, number: int, name: str, values: dict[str, float]) -> None:
        """Print what a round measured, and leave the next one memory that is at hand (`bench.page_cache`)."""
        self.show_round(number, name, values)
        self.site.let_go_of_page_cache()

    def variants(self, *names: str) -> list[bool]:
        """Return whether events carry a messageId, for each of a row's variants that is wanted: without, then with.

        Args:
            names: Ids of rows that are measured together, without what stands for messageIds (`suffix`).
        """
        return [ids for ids in self.effort.message_ids if any(self.wanted(f"{name}{suffix(ids)}") for name in names)]

    def measured(self, row_id: str) -> float | None:
        """Return the figure of a row, the median of its rounds; None where this run has not measured it."""
        row = self.done.get(row_id)
        spread = row.spread() if row else None
        return spread.median if spread else None

    def single(self, *, message_ids: bool = False) -> Requests:
        """Return requests that carry one event each."""
        return Requests(self.site.bodies, self.site.keys, message_ids=message_ids)

    def batches(self, *, message_ids: bool = False) -> Requests:
        """Return requests that carry a hundred events each."""
        return Requests(self.site.bodies, self.site.keys, BATCH_PATH, BATCH_EVENTS, message_ids)


class Group(Protocol):
    """A module of `bench.rows`: what it is called, the ids of its rows, and how it measures them."""

    NAME: str
    ROWS: Sequence[str]

    def measure(self, bench: Bench) -> Iterable[Row]:
        """Measure the rows that are wanted."""


#: With messageId beside without, of the same round.
WITHOUT_GOAL = Goal("of the same without messageId", ">=", 0.85, ("without",))
WITHOUT_LABEL = {"without": "without messageId"}


def compare_with(without: Row | None, row: Row) -> None:
    """Put the figure without messageId beside the one with it that was measured last, when both had this round."""
    if without is not None and len(without.rounds) == len(row.rounds):
        row.rounds[-1]["without"] = without.rounds[-1]["boost"]


def suffix(message_ids: bool) -> str:
    """Return what the id of a row ends with when its events carry a messageId."""
    return ".ids" if message_ids else ""


def with_ids(message_ids: bool) -> str:
    """Return what the title of a row ends with when its events carry a messageId."""
    return ", with messageId" if message_ids else ""
