"""What a snapshot costs that somebody, a dump say, holds open for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import psycopg

from bench.deployment import deployed
from bench.load.paced import settled_throughput
from bench.load.wrk import Requests
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS
from bench.run import Bench, suffix, with_ids

NAME = "snapshot"
ROWS = ("snapshot", "snapshot.ids")
_FIRST_SECONDS = 2.0
_A_LITTLE_FASTER = 1.1
_GOALS = (Goal("of the same without", ">=", 0.95, ("without",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure batches, accepted and settled, without and with an open snapshot; each on tables of its own."""
    rows = {ids: _row(bench.effort.seconds, ids) for ids in bench.variants(NAME)}
    paces = dict.fromkeys(rows, 0.0)
    for number in range(bench.effort.rounds):
        order = (False, True) if number % 2 == 0 else (True, False)
        for ids, row in rows.items():
            rates = {}
            for held in order:
                paces[ids], rates[held] = _pace_and_rate(bench, bench.batches(message_ids=ids), paces[ids], held)
            row.rounds.append({"boost": rates[True], "without": rates[False]})
            bench.end_round(number, row.id, row.rounds[-1])
    return rows.values()


def _row(seconds: float, message_ids: bool) -> Row:
    title = f"Accepted and settled, batches for {seconds:g} s, while a snapshot is held open"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="events/s",
        rounds=[],
        goals=list(_GOALS),
        labels={"boost": "with the snapshot", "without": "without"},
    )


def _pace_and_rate(bench: Bench, load: Requests, pace: float, held: bool) -> tuple[float, float]:
    """Send a little faster than what is settled, which the first run finds out; return that pace and the rate."""
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
