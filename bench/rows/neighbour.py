"""What a project feels of another that sends ten times as much: the slowest of a hundred of its POSTs, open loop."""

from __future__ import annotations

from collections.abc import Iterable

from bench.deployment import Deployment, deployed
from bench.load.oha import OhaAnswer, OhaRun
from bench.load.paced import settled_throughput
from bench.load.wrk import Requests, WrkRun
from bench.results import Goal, Row
from bench.run import Bench

NAME = "neighbour"
ROWS = ("neighbour",)
CONNECTIONS = 32
_TIMES = 10
#: Both together stay at this share of what the worker can do: beyond it there are queues for everyone.
_SHARE_OF_MAXIMUM = 0.5
_MAXIMUM_SECONDS = 3.0
_GOALS = (Goal("of the same alone", "<=", 1.5, ("alone",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Measure the others' latency without and with the neighbour in each round."""
    with deployed(bench.site, "neighbour", "web,agents,sweeper") as worker:
        rate = _SHARE_OF_MAXIMUM * _maximum(bench, worker) / (_TIMES + 1)
        row = _row(rate)
        for number in range(bench.effort.rounds):
            alone = _others(bench, worker, rate)
            noise = WrkRun(
                worker.address,
                Requests(bench.site.bodies, bench.site.keys[:1]),
                connections=CONNECTIONS,
                seconds=bench.effort.seconds + 1,
                requests_per_second=_TIMES * rate,
            )
            beside = _others(bench, worker, rate)
            noise.result()
            worker.wait_until_settled()
            row.rounds.append(
                {"boost": beside.p99_ms, "alone": alone.p99_ms, "boost_p50": beside.p50_ms, "alone_p50": alone.p50_ms}
            )
            bench.end_round(number, row.id, row.rounds[-1])
    return [row]


def _maximum(bench: Bench, worker: Deployment) -> float:
    measured = bench.done.get("whole.c64")
    spread = measured.spread() if measured else None
    if spread:
        return spread.median
    return settled_throughput(worker, bench.single(), connections=CONNECTIONS, seconds=_MAXIMUM_SECONDS)


def _others(bench: Bench, worker: Deployment, rate: float) -> OhaAnswer:
    site = bench.site
    run = OhaRun(
        worker.address,
        site.bodies,
        site.keys[1:],
        rate=rate,
        connections=CONNECTIONS,
        seconds=bench.effort.seconds,
    )
    return run.result()


def _row(rate: float) -> Row:
    return Row(
        id="neighbour",
        group=NAME,
        title=f"p99 of a project's POSTs ({rate:,.0f}/s) while another sends {_TIMES} times as many, one whole worker",
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
