"""What a project feels of another that sends ten times as much: the slowest of a hundred of its POSTs, open loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.deployment import Deployment, deployed
from bench.load.oha import OhaAnswer, OhaRun
from bench.load.paced import settled_throughput
from bench.load.wrk import Requests, WrkRun
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids

NAME = "neighbour"
ROWS = ("neighbour", "neighbour.ids")
CONNECTIONS = 32
_TIMES = 10
#: Both together stay at this share of what the worker can do: beyond it there are queues for everyone.
_SHARE_OF_MAXIMUM = 0.5
_MAXIMUM_SECONDS = 3.0
_GOALS = (Goal("of the same alone", "<=", 1.5, ("alone",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure the others' latency without and with the neighbour in each round."""
    with deployed(bench.site, "neighbour", "web,agents,sweeper") as worker:
        cases = [_case(bench, worker, ids) for ids in bench.variants(NAME)]
        for number in range(bench.effort.rounds):
            for case in cases:
                case.row.rounds.append(_measure_round(worker, case, bench.effort.seconds))
                bench.end_round(number, case.row.id, case.row.rounds[-1])
    return [case.row for case in cases]


@dataclass(frozen=True, slots=True)
class _Case:
    """What a project sends, so many a second, and its neighbour `_TIMES` as many."""

    row: Row
    rate: float
    project: Requests
    neighbour: Requests


def _case(bench: Bench, worker: Deployment, message_ids: bool) -> _Case:
    rate = _SHARE_OF_MAXIMUM * _maximum(bench, worker, message_ids) / (_TIMES + 1)
    requests, keys = bench.single(message_ids=message_ids), bench.site.keys
    return _Case(_row(rate, message_ids), rate, replace(requests, keys=keys[1:]), replace(requests, keys=keys[:1]))


def _measure_round(worker: Deployment, case: _Case, seconds: float) -> dict[str, float]:
    alone = _latency(worker, case, seconds)
    noise = WrkRun(
        worker.address,
        case.neighbour,
        connections=CONNECTIONS,
        seconds=seconds + 1,
        requests_per_second=_TIMES * case.rate,
    )
    beside = _latency(worker, case, seconds)
    noise.result()
    worker.wait_until_settled()
    return {"boost": beside.p99_ms, "alone": alone.p99_ms, "boost_p50": beside.p50_ms, "alone_p50": alone.p50_ms}


def _latency(worker: Deployment, case: _Case, seconds: float) -> OhaAnswer:
    return OhaRun(worker.address, case.project, rate=case.rate, connections=CONNECTIONS, seconds=seconds).result()


def _maximum(bench: Bench, worker: Deployment, message_ids: bool) -> float:
    if measured := bench.measured(f"whole.c64{suffix(message_ids)}"):
        return measured
    requests = bench.single(message_ids=message_ids)
    return settled_throughput(worker, requests, connections=CONNECTIONS, seconds=_MAXIMUM_SECONDS)


def _row(rate: float, message_ids: bool) -> Row:
    title = f"p99 of a project's POSTs ({rate:,.0f}/s) while another sends {_TIMES} times as many, one whole worker"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="ms",
        rounds=[],
        goals=list(_GOALS),
        labels={
            "boost": "beside the neighbour, p99",
            "alone": "alone, p99",
            "boost_p50": "beside the neighbour, p50, ms",
            "alone_p50": "alone, p50, ms",
        },
        details={"rate": round(rate), "times": _TIMES},
    )
