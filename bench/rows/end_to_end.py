"""Accepted to processed, sustained: a whole worker that takes batches and settles them without falling behind.

The ceiling is the same worker with the role `web` alone: it takes, and nobody settles. Both get the same requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from bench.deployment import Deployment, deployed
from bench.load.paced import FASTER, FIRST_SHARE, PacedLoad, Sustained, rates_under_load, settled_throughput
from bench.load.wrk import Requests, saturate
from bench.meter import COST_LABELS, cost_since, read
from bench.results import Goal, Row
from bench.run import BATCH_EVENTS, WITHOUT_GOAL, WITHOUT_LABEL, Bench, compare_with, suffix, with_ids

NAME = "end_to_end"
ROWS = ("end_to_end", "end_to_end.ids")
CONNECTIONS = 16
#: How much shorter the ceiling is measured than the sustained run.
_CEILING_SHARE = 0.3
_SHORTEST_SECONDS = 2.0
#: How long requests come as fast as they are answered, to find the first pace.
_FIRST_SECONDS = 3.0
_GOALS = (Goal("of ingest alone", ">=", 0.50, ("ingest",)),)


@dataclass
class _Case:
    row: Row
    requests: Requests
    pace: float = 0.0


def measure(bench: Bench) -> Iterable[Row]:
    """Measure end to end without and with messageId."""
    cases = [_Case(_row(ids), bench.batches(message_ids=ids)) for ids in bench.variants(NAME)]
    with contextlib.ExitStack() as stack:
        ingest = stack.enter_context(deployed(bench.site, "ingest", "web"))
        whole = stack.enter_context(deployed(bench.site, "whole_path", "web,agents,sweeper"))
        for case in cases:
            _ingest_rate(bench, ingest, case.requests, 1)
            case.pace = _first_pace(bench, case, whole)
        for number in range(bench.effort.rounds):
            for case in cases:
                _measure_round(bench, number, case, ingest, whole, cases[0] if case is not cases[0] else None)
    return [case.row for case in cases]


def _first_pace(bench: Bench, case: _Case, whole: Deployment) -> float:
    """Return where to begin: what it takes and settles, less a little; where there is time, what short runs find."""
    seconds = min(_FIRST_SECONDS, bench.effort.seconds / 3)
    if bench.effort.rounds == 1:
        return FIRST_SHARE * settled_throughput(whole, case.requests, connections=CONNECTIONS, seconds=seconds)
    rates = rates_under_load(whole, case.requests, connections=CONNECTIONS, seconds=seconds)
    bench.say(f"{case.row.id}: accepts {rates.accepted:,.0f} and settles {rates.settled:,.0f} events/s under load")
    return PacedLoad(whole, case.requests, CONNECTIONS, bench.say).find_pace(rates.settled, rates.accepted)


def _measure_round(
    bench: Bench, number: int, case: _Case, ingest: Deployment, whole: Deployment, without: _Case | None
) -> None:
    ceiling = _ingest_rate(bench, ingest, case.requests, _shorter(bench))
    before = read(whole)
    run = PacedLoad(whole, case.requests, CONNECTIONS, bench.say).sustained(case.pace, bench.effort.seconds)
    case.pace = run.pace * FASTER if run.pace == case.pace else run.pace
    cost = cost_since(whole, before)
    case.row.rounds.append({"boost": run.rate, "ingest": ceiling, **cost, "growth": run.growth})
    if without is not None:
        compare_with(without.row, case.row)
    _keep_backlog(case.row, run)
    bench.end_round(number, case.row.id, {"boost": run.rate, "ingest": ceiling, "ratio": run.rate / ceiling})


def _keep_backlog(row: Row, run: Sustained) -> None:
    """Keep what was unsettled over time, for the plot, and whether every run held."""
    row.details.setdefault("backlog", []).append([[at, count] for at, count in run.backlog])
    row.details["held"] = bool(row.details.get("held", True)) and run.holds


def _ingest_rate(bench: Bench, ingest: Deployment, requests: Requests, seconds: float) -> float:
    return saturate(ingest.address, requests, connections=CONNECTIONS, seconds=seconds).rate * BATCH_EVENTS


def _shorter(bench: Bench) -> float:
    return max(_SHORTEST_SECONDS, bench.effort.seconds * _CEILING_SHARE)


def _row(message_ids: bool) -> Row:
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title="Accepted to processed, batches of a hundred, one whole worker, backlog not growing"
        f"{with_ids(message_ids)}",
        unit="events/s",
        rounds=[],
        goals=[*_GOALS, WITHOUT_GOAL] if message_ids else list(_GOALS),
        labels={
            "boost": "Boost",
            "ingest": "ingest alone",
            **WITHOUT_LABEL,
            **COST_LABELS,
            "growth": "growth of the backlog, events/s",
        },
        details={},
    )
