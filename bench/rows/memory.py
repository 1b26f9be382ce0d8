"""Memory of a whole worker after many events, beside what it held after the first."""

from __future__ import annotations

from collections.abc import Iterable

from bench.deployment import Deployment, deployed
from bench.load.paced import FIRST_SHARE, send_and_settle, settled_throughput
from bench.load.wrk import Requests
from bench.processes import resident_bytes
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS
from bench.run import Bench, suffix, with_ids

NAME = "memory"
ROWS = ("memory", "memory.ids")
_FIRST_EVENTS = 100_000
_FIRST_SECONDS = 2.0
_MIB = 1024 * 1024
_GOALS = (Goal("MiB more", "<=", 32.0),)


def measure(bench: Bench) -> Iterable[Row]:
    """Send and settle events at a pace that holds; look at the memory after the first, and after all of them."""
    rows = {ids: _row(bench.effort.events, ids) for ids in bench.variants(NAME)}
    for number in range(bench.effort.rounds):
        for ids, row in rows.items():
            row.rounds.append(_first_and_last(bench, bench.batches(message_ids=ids)))
            bench.end_round(number, row.id, row.rounds[-1])
    return rows.values()


def _row(events: int, message_ids: bool) -> Row:
    title = f"Memory of a whole worker after {events:,} events, beyond that after {_FIRST_EVENTS:,}"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="MiB",
        rounds=[],
        goals=list(_GOALS),
        labels={"boost": "more", "first": f"after {_FIRST_EVENTS:,} events, MiB", "last": "at the end, MiB"},
    )


def _first_and_last(bench: Bench, load: Requests) -> dict[str, float]:
    with deployed(bench.site, NAME, "web,agents,sweeper") as worker:
        about = settled_throughput(worker, load, connections=CONNECTIONS, seconds=_FIRST_SECONDS)
        first = _after(bench, worker, load, FIRST_SHARE * about, _FIRST_EVENTS - worker.accepted())
        last = _after(bench, worker, load, FIRST_SHARE * about, bench.effort.events - worker.accepted())
    return {"boost": last - first, "first": first, "last": last}


def _after(bench: Bench, worker: Deployment, load: Requests, pace: float, events: int) -> float:
    send_and_settle(worker, load, connections=CONNECTIONS, pace=pace, events=events, say=bench.say)
    return resident_bytes(worker.pids[0]) / _MIB
