"""The slowest of a hundred single POSTs at half of the maximum rate, open loop.

The ceiling adds up what cannot be avoided: the same percentile of the parse-only server at that rate, and of one commit
of as many events as ours has then, measured while the parse-only server is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from bench.ceilings.commit import Committed
from bench.ceilings.programs import Program
from bench.ceilings.servers import parse_only_server
from bench.deployment import Deployment, deployed
from bench.load.oha import OhaAnswer, OhaRun
from bench.load.wrk import saturate
from bench.results import Goal, Row
from bench.run import Bench

NAME = "p99"
ROWS = ("p99",)
CONNECTIONS = 64
_SHARE_OF_MAXIMUM = 0.5
_MAXIMUM_SECONDS = 3.0
_GOALS = (Goal("of parse only + one commit", "<=", 1.5, ("parse", "commit")),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure ours and both parts of the ceiling in each round."""
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(deployed(bench.site, "latency", "web"))
        parse_only = stack.enter_context(parse_only_server(bench.site, "faust"))
        rate = _SHARE_OF_MAXIMUM * maximum_rate(bench, worker)
        row = _row(rate)
        _latency(bench, worker.address, rate, 1.0)
        for number in range(bench.effort.rounds):
            row.rounds.append(_measure_round(bench, worker, parse_only, rate))
            bench.end_round(number, row.id, row.rounds[-1])
    return [row]


def maximum_rate(bench: Bench, worker: Deployment) -> float:
    """Return requests per second of one web worker: from the row that measured it, or from a short run."""
    measured = bench.done.get("single.c64")
    spread = measured.spread() if measured else None
    if spread:
        return spread.median
    return saturate(worker.address, bench.single(), connections=CONNECTIONS, seconds=_MAXIMUM_SECONDS).rate


def _measure_round(bench: Bench, worker: Deployment, parse_only: str, rate: float) -> dict[str, float]:
    commits, events = worker.metric("boost_commit_events_count"), worker.metric("boost_commit_events_sum")
    ours = _latency(bench, worker.address, rate, bench.effort.seconds)
    commits = worker.metric("boost_commit_events_count") - commits
    per_commit = max(1, round((worker.metric("boost_commit_events_sum") - events) / max(1.0, commits)))
    beside = Program(
        "commit",
        [
            *("--url", worker.url, "--projects", bench.site.project_list, "--seconds", bench.effort.seconds),
            *("--events", per_commit, "--per-second", rate / per_commit),
        ],
    )
    parse = _latency(bench, parse_only, rate, bench.effort.seconds)
    commit = beside.result(Committed)
    return {
        "boost": ours.p99_ms,
        "parse": parse.p99_ms,
        "commit": commit.p99_ms,
        "boost_p50": ours.p50_ms,
        "parse_p50": parse.p50_ms,
        "commit_p50": commit.p50_ms,
        "per_commit": float(per_commit),
    }


def _latency(bench: Bench, url: str, rate: float, seconds: float) -> OhaAnswer:
    site = bench.site
    return OhaRun(url, site.bodies, site.keys, rate=rate, connections=CONNECTIONS, seconds=seconds).result()


def _row(rate: float) -> Row:
    return Row(
        id="p99",
        group=NAME,
        title=f"p99 of single POST at half of the maximum rate ({rate:,.0f}/s), open loop, one web worker",
        unit="ms",
        rounds=[],
        goals=list(_GOALS),
        labels={
            "boost": "Boost, p99",
            "parse": "Faust, parse only, p99",
            "commit": "one commit, p99",
            "boost_p50": "Boost, p50, ms",
            "parse_p50": "Faust, parse only, p50, ms",
            "commit_p50": "one commit, p50, ms",
            "per_commit": "events in one commit",
        },
        details={"rate": round(rate)},
    )
