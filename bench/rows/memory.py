"""Memory of a whole worker after many events, beside what it held after the first."""

from __future__ import annotations

from collections.abc import Iterable

from bench.deployment import Deployment, deployed
from bench.load.paced import FIRST_SHARE, send_and_settle, settled_throughput
from bench.processes import resident_bytes
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS
from bench.run import Bench

NAME = "memory"
ROWS = ("memory",)
_FIRST_EVENTS = 100_000
_FIRST_SECONDS = 2.0
_MIB = 1024 * 1024
_GOALS = (Goal("MiB more", "<=", 32.0),)


def measure(bench: Bench) -> Iterable[Row]:
    """Send and settle events at a pace that holds; look at the memory after the first, and after all of them."""
    row = Row(
        id="memory",
        group=NAME,
        title=f"Memory of a whole worker after {bench.effort.events:,} events, beyond that after {_FIRST_EVENTS:,}",
        unit="MiB",
        rounds=[],
        goals=list(_GOALS),
        labels={"boost": "more", "first": f"after {_FIRST_EVENTS:,} events, MiB", "last": "at the end, MiB"},
    )
    for number in range(bench.effort.rounds):
        with deployed(bench.site, "memory", "web,agents,sweeper") as worker:
            pace = FIRST_SHARE * settled_throughput(
                worker, bench.batches(), connections=CONNECTIONS, seconds=_FIRST_SECONDS
            )
            first = _after(bench, worker, pace, _FIRST_EVENTS - worker.accepted())
            last = _after(bench, worker, pace, bench.effort.events - worker.accepted())
        row.rounds.append({"boost": last - first, "first": first, "last": last})
        bench.end_round(number, row.id, row.rounds[-1])
    return [row]


def _after(bench: Bench, worker: Deployment, pace: float, events: int) -> float:
    send_and_settle(worker, bench.batches(), connections=CONNECTIONS, pace=pace, events=events, say=bench.say)
    return resident_bytes(worker.pids[0]) / _MIB
