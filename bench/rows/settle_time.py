"""From accepted to processed at 500 events a second: the database's times of both, and the client's wait."""

from __future__ import annotations

from collections.abc import Iterable

from bench.database import ask
from bench.deployment import Deployment, deployed
from bench.load.oha import OhaAnswer, OhaRun
from bench.load.wrk import Requests
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids
from bench.statistics import percentile

NAME = "settle_time"
RATE = 500
CONNECTIONS = 32
_SHARES = {"p50": (0.50, 50.0), "p99": (0.99, 250.0)}
ROWS = tuple(f"{NAME}.{name}{suffix(ids)}" for ids in (False, True) for name in _SHARES)
_WARM_UP_SECONDS = 2.0


def measure(bench: Bench) -> Iterable[Row]:
    """Send at a fixed rate and read from the table when each event came and when it was settled."""
    cases = {
        ids: {name: _row(name, limit, ids) for name, (_, limit) in _SHARES.items()}
        for ids in bench.variants(*(f"{NAME}.{name}" for name in _SHARES))
    }
    with deployed(bench.site, "settle_time", "web,agents,sweeper") as worker:
        for ids in cases:
            _taken(worker, bench.single(message_ids=ids), _WARM_UP_SECONDS)
        for number in range(bench.effort.rounds):
            for ids, rows in cases.items():
                taken, answer = _taken(worker, bench.single(message_ids=ids), bench.effort.seconds)
                for name, (share, _) in _SHARES.items():
                    client = answer.p50_ms if name == "p50" else answer.p99_ms
                    rows[name].rounds.append({"boost": percentile(taken, share) * 1e3, "client": client})
                    bench.end_round(number, rows[name].id, rows[name].rounds[-1])
    return [row for rows in cases.values() for row in rows.values()]


def _taken(worker: Deployment, requests: Requests, seconds: float) -> tuple[list[float], OhaAnswer]:
    """Return how long each event took from its commit to its settlement (seconds), and what the client saw."""
    with ask(worker.url) as question:
        since = question.now()
        answer = OhaRun(worker.address, requests, rate=RATE, connections=CONNECTIONS, seconds=seconds).result()
        worker.wait_until_settled()
        return question.settle_seconds(since), answer


def _row(name: str, limit: float, message_ids: bool) -> Row:
    title = f"Accepted to processed, {name}, at {RATE} events/s in single POSTs, one whole worker"
    return Row(
        id=f"{NAME}.{name}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="ms",
        rounds=[],
        goals=[Goal("ms", "<=", limit)],
        labels={"boost": "from commit to settlement", "client": f"the client's wait for its 202, {name}, ms"},
    )
