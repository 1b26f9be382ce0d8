"""A backlog drained by one worker that was away: stored and on the broker before the worker starts.

The ceiling reads the same messages with bare aiokafka, and then settles as many events with the statements alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from bench.ceilings.programs import run_program
from bench.ceilings.settle import Drained
from bench.database import ask
from bench.deployment import Deployment, deployed
from bench.loader import publish_batches, store_events
from bench.processes import cpu_seconds
from bench.results import Goal, Row
from bench.run import Bench

NAME = "backlog"
ROWS = ("backlog",)
#: How many events a commit holds when many arrive.
_PER_BATCH = 100
_GOALS = (Goal("of reading, then settling, alone", ">=", 0.60, ("parts",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Make, drain and compare a backlog in each round."""
    row = Row(
        id="backlog",
        group=NAME,
        title=f"A backlog of {bench.effort.events:,} events drained by one worker (role agents)",
        unit="events/s",
        rounds=[],
        goals=list(_GOALS),
        labels={
            "boost": "Boost",
            "parts": "aiokafka alone, then the statements alone",
            "read": "aiokafka alone, events/s",
            "settle": "the statements alone, events/s",
            "worker_us": "CPU of the worker, µs per event",
        },
    )
    for number in range(bench.effort.rounds):
        row.rounds.append(_measure_round(bench, number))
        bench.end_round(number, row.id, {**row.rounds[-1], "ratio": row.rounds[-1]["boost"] / row.rounds[-1]["parts"]})
    return [row]


def _measure_round(bench: Bench, number: int) -> dict[str, float]:
    site = bench.site
    projects = [project.id for project in site.projects]
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(deployed(site, f"backlog{number}", "agents", workers=0))
        beside = stack.enter_context(site.database(f"bench_beside{number}"))
        batches = asyncio.run(store_events(worker.url, projects, bench.effort.events, _PER_BATCH))
        asyncio.run(worker.make_topics())
        asyncio.run(publish_batches(worker.url, site.kafka.bootstrap, worker.prefix, batches))
        asyncio.run(store_events(beside, projects, bench.effort.events, _PER_BATCH))
        ours = _drain(worker)
        alone = run_program(
            "settle", ["--url", beside, "--bootstrap", site.kafka.bootstrap, "--prefix", worker.prefix], Drained
        )
    seconds = alone.read_seconds + alone.settle_seconds
    return {
        **ours,
        "parts": alone.events / seconds,
        "read": alone.events / alone.read_seconds,
        "settle": alone.events / alone.settle_seconds,
    }


def _drain(worker: Deployment) -> dict[str, float]:
    """Start the worker and return its rate, from the first settlement to the last, by the database's clock."""
    with ask(worker.url) as question:
        question.checkpoint()
        worker.start_workers(1)
        before = cpu_seconds(worker.pids)
        left = question.unsettled()
        while question.unsettled() > 0:
            time.sleep(0.05)
        cpu = cpu_seconds(worker.pids) - before
        events, seconds = question.settled_span("-infinity")
    rates = {"boost": events / seconds}
    return rates | ({"worker_us": cpu / left * 1e6} if left else {})
