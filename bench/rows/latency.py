"""The slowest of a hundred single POSTs at half of the maximum rate, open loop.

The ceiling adds up what cannot be avoided: the same percentile of the parse-only server at that rate, and of one commit
of as many events as ours has then, measured while the parse-only server is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from bench.ceilings.commit import Committed
from bench.ceilings.programs import Program
from bench.ceilings.servers import parse_only_server
from bench.deployment import Deployment, deployed
from bench.load.oha import OhaRun
from bench.load.wrk import Requests, saturate
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids

NAME = "p99"
ROWS = ("p99", "p99.ids")
CONNECTIONS = 64
_SHARE_OF_MAXIMUM = 0.5
_MAXIMUM_SECONDS = 3.0
_GOALS = (Goal("of parse only + one commit", "<=", 1.5, ("parse", "commit")),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure ours and both parts of the ceiling in each round."""
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(deployed(bench.site, "latency", "web"))
        parse_only = stack.enter_context(parse_only_server(bench.site, "faust"))
        cases = [_case(bench, worker, ids) for ids in bench.variants(NAME)]
        for number in range(bench.effort.rounds):
            for case in cases:
                case.row.rounds.append(_measure_round(bench, worker, parse_only, case))
                bench.end_round(number, case.row.id, case.row.rounds[-1])
    return [case.row for case in cases]


@dataclass(frozen=True, slots=True)
class _Case:
    row: Row
    requests: Requests
    rate: float


def _case(bench: Bench, worker: Deployment, message_ids: bool) -> _Case:
    """Find the rate, and warm up with it."""
    rate = _SHARE_OF_MAXIMUM * maximum_rate(bench, worker, message_ids=message_ids)
    case = _Case(_row(rate, message_ids), bench.single(message_ids=message_ids), rate)
    _run(worker.address, case, 1.0).result()
    return case


def maximum_rate(bench: Bench, worker: Deployment, *, message_ids: bool) -> float:
    """Return requests per second of one web worker: from the row that measured it, or from a short run."""
    if measured := bench.measured(f"single.c64{suffix(message_ids)}"):
        return measured
    requests = bench.single(message_ids=message_ids)
    return saturate(worker.address, requests, connections=CONNECTIONS, seconds=_MAXIMUM_SECONDS).rate


def _measure_round(bench: Bench, worker: Deployment, parse_only: str, case: _Case) -> dict[str, float]:
    commits, events = worker.metric("boost_commit_events_count"), worker.metric("boost_commit_events_sum")
    ours = _run(worker.address, case, bench.effort.seconds).result()
    commits = worker.metric("boost_commit_events_count") - commits
    per_commit = max(1, round((worker.metric("boost_commit_events_sum") - events) / max(1.0, commits)))
    run = _run(parse_only, case, bench.effort.seconds)
    beside = Program(
        "commit",
        [
            *("--url", worker.url, "--projects", bench.site.project_list, "--seconds", bench.effort.seconds),
            *("--events", per_commit, "--per-second", case.rate / per_commit),
            *(["--message-ids"] if case.requests.message_ids else []),
        ],
    )
    parse, commit = run.result(), beside.result(Committed)
    return {
        "boost": ours.p99_ms,
        "parse": parse.p99_ms,
        "commit": commit.p99_ms,
        "boost_p50": ours.p50_ms,
        "parse_p50": parse.p50_ms,
        "commit_p50": commit.p50_ms,
        "per_commit": float(per_commit),
    }


def _run(url: str, case: _Case, seconds: float) -> OhaRun:
    return OhaRun(url, case.requests, rate=case.rate, connections=CONNECTIONS, seconds=seconds)


def _row(rate: float, message_ids: bool) -> Row:
    title = f"p99 of single POST at half of the maximum rate ({rate:,.0f}/s), open loop, one web worker"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
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
