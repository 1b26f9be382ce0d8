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
from bench.run import Bench, suffix, with_ids

NAME = "backlog"
ROWS = ("backlog", "backlog.ids")
#: How many events a commit holds when many arrive.
_PER_BATCH = 100
_GOALS = (Goal("of reading, then settling, alone", ">=", 0.60, ("parts",)),)


def measure(bench: Bench) -> Iterable[Row]:
    """Make, drain and compare a backlog in each round."""
    rows = {ids: _row(bench.effort.events, ids) for ids in bench.variants(NAME)}
    for number in range(bench.effort.rounds):
        for ids, row in rows.items():
            values = _measure_round(bench, f"{number}{'_ids' if ids else ''}", message_ids=ids)
            row.rounds.append(values)
            bench.end_round(number, row.id, {**values, "ratio": values["boost"] / values["parts"]})
    return rows.values()


def _row(events: int, message_ids: bool) -> Row:
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"A backlog of {events:,} events drained by one worker (role agents){with_ids(message_ids)}",
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


def _measure_round(bench: Bench, name: str, *, message_ids: bool) -> dict[str, float]:
    site = bench.site
    projects = [project.id for project in site.projects]
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(deployed(site, f"backlog{name}", "agents", workers=0))
        beside = stack.enter_context(site.database(f"bench_beside{name}"))
        events = bench.effort.events
        batches = asyncio.run(store_events(worker.url, projects, events, _PER_BATCH, message_ids=message_ids))
        asyncio.run(worker.make_topics())
        asyncio.run(publish_batches(worker.url, site.kafka.bootstrap, worker.prefix, batches))
        asyncio.run(store_events(beside, projects, events, _PER_BATCH, message_ids=message_ids))
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
