"""What a snapshot costs that somebody, a dump say, holds open for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import psycopg

from bench.deployment import deployed
from bench.load.paced import settled_throughput
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS
from bench.run import Bench

NAME = "snapshot"
ROWS = ("snapshot",)
_FIRST_SECONDS = 2.0
_A_LITTLE_FASTER = 1.1
_GOALS = (Goal("of the same without", ">=", 0.95, ("without",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure batches, accepted and settled, without and with an open snapshot; each on tables of its own."""
    row = Row(
        id="snapshot",
        group=NAME,
        title=f"Accepted and settled, batches for {bench.effort.seconds:g} s, while a snapshot is held open",
        unit="events/s",
        rounds=[],
        goals=list(_GOALS),
        labels={"boost": "with the snapshot", "without": "without"},
    )
    pace = 0.0
    for number in range(bench.effort.rounds):
        order = (False, True) if number % 2 == 0 else (True, False)
        rates = {}
        for held in order:
            pace, rates[held] = _pace_and_rate(bench, pace, held)
        row.rounds.append({"boost": rates[True], "without": rates[False]})
        bench.end_round(number, row.id, row.rounds[-1])
    return [row]


def _pace_and_rate(bench: Bench, pace: float, held: bool) -> tuple[float, float]:
    """Send a little faster than what is settled, which the first run finds out; return that pace and the rate."""
    load = bench.batches()
    with deployed(bench.site, "snapshot", "web,agents,sweeper") as worker:
        about = settled_throughput(worker, load, connections=CONNECTIONS, seconds=_FIRST_SECONDS)
        pace = pace or about * _A_LITTLE_FASTER
        with _open_snapshot(worker.url) if held else contextlib.nullcontext():
            seconds = bench.effort.seconds
            return pace, settled_throughput(worker, load, connections=CONNECTIONS, seconds=seconds, pace=pace)


@contextlib.contextmanager
def _open_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot of now, as `pg_dump` does."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM events")
        yield
