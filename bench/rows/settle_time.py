"""From accepted to processed at 500 events a second: the database's times of both, and the client's wait."""

from __future__ import annotations

from collections.abc import Iterable

from bench.database import ask
from bench.deployment import deployed
from bench.load.oha import OhaRun
from bench.results import Goal, Row
from bench.run import Bench
from bench.statistics import percentile

NAME = "settle_time"
ROWS = ("settle_time.p50", "settle_time.p99")
RATE = 500
CONNECTIONS = 32
_SHARES = {"p50": (0.50, 50.0), "p99": (0.99, 250.0)}


def measure(bench: Bench) -> Iterable[Row]:
    """Send at a fixed rate and read from the table when each event came and when it was settled."""
    rows = {name: _row(name, limit) for name, (_, limit) in _SHARES.items()}
    with deployed(bench.site, "settle_time", "web,agents,sweeper") as worker, ask(worker.url) as question:
        for number in range(-1, bench.effort.rounds):
            since = question.now()
            seconds = bench.effort.seconds if number >= 0 else 2.0  # the first warms up
            run = OhaRun(
                worker.address, bench.site.bodies, bench.site.keys, rate=RATE, connections=CONNECTIONS, seconds=seconds
            )
            answer = run.result()
            worker.wait_until_settled()
            if number < 0:
                continue
            taken = question.settle_seconds(since)
            for name, (share, _) in _SHARES.items():
                client = answer.p50_ms if name == "p50" else answer.p99_ms
                rows[name].rounds.append({"boost": percentile(taken, share) * 1e3, "client": client})
                bench.end_round(number, rows[name].id, rows[name].rounds[-1])
    return rows.values()


def _row(name: str, limit: float) -> Row:
    return Row(
        id=f"{NAME}.{name}",
        group=NAME,
        title=f"Accepted to processed, {name}, at {RATE} events/s in single POSTs, one whole worker",
        unit="ms",
        rounds=[],
        goals=[Goal("ms", "<=", limit)],
        labels={"boost": "from commit to settlement", "client": f"the client's wait for its 202, {name}, ms"},
    )
