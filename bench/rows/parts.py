"""What an event costs a whole worker, by part: the figures from which docs/scaling.md reckons."""

from __future__ import annotations

from collections.abc import Iterable

from bench.deployment import Deployment, deployed
from bench.load.paced import FIRST_SHARE, run_at, settled_throughput
from bench.load.wrk import Requests
from bench.meter import COST_LABELS, cost_since, read
from bench.results import Row
from bench.run import Bench, suffix, with_ids
from bench.sampling import sample, shares

NAME = "parts"
_CONNECTIONS = {"parts.single": 256, "parts.batch": 16}
_TITLES = {"parts.single": "single POSTs, 256 connections", "parts.batch": "batches of a hundred"}
ROWS = tuple(f"{name}{suffix(ids)}" for ids in (False, True) for name in _CONNECTIONS)
_FIRST_SECONDS = 2.0
_LABELS = {
    "boost": "CPU of the worker, µs per event",
    "http_us": "of it: HTTP, key and event read and checked, answer",
    "commit_us": "of it: commit",
    "produce_us": "of it: messages to Kafka",
    "read_us": "of it: messages from Kafka to their agent (Faust)",
    "dispatch_us": "of it: dispatch",
    "handle_us": "of it: handlers",
    "settle_us": "of it: settlement",
}


def measure(bench: Bench) -> Iterable[Row]:
    """Send at a pace that the worker settles, and sample it."""
    rows = []
    with deployed(bench.site, "parts", "web,agents,sweeper") as worker:
        for name in _CONNECTIONS:
            for ids in bench.variants(name):
                requests = (bench.single if name == "parts.single" else bench.batches)(message_ids=ids)
                rows.append(_measure_row(bench, worker, name, requests))
    return rows


def _measure_row(bench: Bench, worker: Deployment, name: str, requests: Requests) -> Row:
    row = _row(name, requests.message_ids)
    connections = _CONNECTIONS[name]
    about = settled_throughput(worker, requests, connections=connections, seconds=_FIRST_SECONDS)
    for number in range(bench.effort.rounds):
        before = read(worker)
        samples = sample(worker.pids[0], bench.effort.seconds)
        run_at(worker, requests, connections=connections, seconds=bench.effort.seconds, pace=FIRST_SHARE * about)
        spent = samples.result()
        worker.wait_until_settled()
        cost = cost_since(worker, before)
        whole = cost.pop("worker_us")
        row.rounds.append({"boost": whole, **shares(spent, whole), **cost})
        bench.end_round(number, row.id, row.rounds[-1])
    return row


def _row(name: str, message_ids: bool) -> Row:
    costs = {cost: label for cost, label in COST_LABELS.items() if cost != "worker_us"}
    title = f"What an event costs a whole worker, {_TITLES[name]}, nine tenths of what it settles"
    return Row(
        id=f"{name}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="µs of CPU",
        rounds=[],
        goals=[],
        labels={**_LABELS, **costs},
        details={},
    )
