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
    for number in range(bench.effort.rounds):
        order = (False, True) if number % 2 == 0 else (True, False)
        rates = {held: _rate(bench, held) for held in order}
        row.rounds.append({"boost": rates[True], "without": rates[False]})
        bench.show_round(number, row.id, row.rounds[-1])
    return [row]


def _rate(bench: Bench, held: bool) -> float:
    with deployed(bench.site, "snapshot", "web,agents,sweeper") as worker:
        settled_throughput(worker, bench.batches(), connections=CONNECTIONS, seconds=1)
        with _open_snapshot(worker.url) if held else contextlib.nullcontext():
            return settled_throughput(
                worker, bench.batches(), connections=CONNECTIONS, seconds=bench.effort.seconds, deadline=900
            )


@contextlib.contextmanager
def _open_snapshot(url: str) -> Iterator[None]:
    """Hold a snapshot of now, as `pg_dump` does."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM events")
        yield
