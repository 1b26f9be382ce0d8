"""What an event costs in CPU time of the workers when two of them share the work, beside one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from bench.deployment import Deployment, deployed
from bench.load.wrk import Requests, WrkRun
from bench.meter import cost_since, read
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids

NAME = "two_workers"
ROWS = ("two_workers", "two_workers.ids")
CONNECTIONS = 64
_WARM_UP_SECONDS = 3.0
_GOALS = (Goal("of one worker", "<=", 1.15, ("one",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Load one worker and two in turn with single POSTs; everything is settled within the measurement."""
    rows = {ids: _row(ids) for ids in bench.variants(NAME)}
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(deployed(bench.site, "one", "web,agents,sweeper"))
        two = stack.enter_context(deployed(bench.site, "two", "web,agents,sweeper", workers=2))
        for deployment in (one, two):
            _load(deployment, bench.single(), _WARM_UP_SECONDS)
        for number in range(bench.effort.rounds):
            for ids, row in rows.items():
                requests = bench.single(message_ids=ids)
                alone, together = (_load(deployment, requests, bench.effort.seconds) for deployment in (one, two))
                row.rounds.append(
                    {
                        "boost": together["worker_us"],
                        "one": alone["worker_us"],
                        "rate_two": together["rate"],
                        "rate_one": alone["rate"],
                        "postgres_two": together["postgres_us"],
                        "postgres_one": alone["postgres_us"],
                    }
                )
                bench.end_round(number, row.id, row.rounds[-1])
    return rows.values()


def _load(deployment: Deployment, requests: Requests, seconds: float) -> dict[str, float]:
    """Share the connections among the workers; return cost and rate of what was accepted and settled."""
    before = read(deployment)
    each = CONNECTIONS // len(deployment.workers)
    runs = [WrkRun(worker.url, requests, connections=each, seconds=seconds) for worker in deployment.workers]
    took = max(run.result().seconds for run in runs) + deployment.wait_until_settled()
    events = deployment.accepted() - before.accepted
    return {**cost_since(deployment, before), "rate": events / took}


def _row(message_ids: bool) -> Row:
    title = f"CPU time of the workers per event, two whole workers, single POSTs of {CONNECTIONS} connections"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="µs",
        rounds=[],
        goals=list(_GOALS),
        labels={
            "boost": "two workers",
            "one": "one worker",
            "rate_two": "two workers, events/s",
            "rate_one": "one worker, events/s",
            "postgres_two": "CPU of PostgreSQL with two workers, µs per event",
            "postgres_one": "CPU of PostgreSQL with one worker, µs per event",
        },
    )
