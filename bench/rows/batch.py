"""Batches of a hundred events to one `web` worker, against COPY of the same rows into the same table."""

from __future__ import annotations

from collections.abc import Iterable

from bench.ceilings.copy import Copied
from bench.ceilings.programs import run_program
from bench.deployment import Deployment, deployed
from bench.load.wrk import saturate
from bench.meter import COST_LABELS, cost_since, read
from bench.results import Goal, Row
from bench.run import BATCH_EVENTS, WITHOUT_GOAL, WITHOUT_LABEL, Bench, compare_with, suffix, with_ids

NAME = "batch"
ROWS = ("batch", "batch.ids")
#: Enough requests under way to keep several commits busy.
CONNECTIONS = 32
_GOALS = (Goal("of COPY", ">=", 0.60, ("copy",)),)
_WARM_UP_SECONDS = 1.0


def measure(bench: Bench) -> Iterable[Row]:
    """Measure batches without and with messageId."""
    rows = {ids: _row(ids) for ids in bench.variants(NAME)}
    with deployed(bench.site, "batch", "web") as worker:
        _accepted_rate(bench, worker, message_ids=False, seconds=_WARM_UP_SECONDS)
        for number in range(bench.effort.rounds):
            for ids, row in rows.items():
                copied = copy_rate(bench, worker.url, message_ids=ids, seconds=bench.effort.seconds)
                before = read(worker)
                accepted = _accepted_rate(bench, worker, message_ids=ids, seconds=bench.effort.seconds)
                row.rounds.append({"boost": accepted, "copy": copied, **cost_since(worker, before)})
                if ids:
                    compare_with(rows.get(False), row)
                bench.end_round(number, row.id, {"boost": accepted, "copy": copied, "ratio": accepted / copied})
    return rows.values()


def copy_rate(bench: Bench, url: str, *, message_ids: bool, seconds: float) -> float:
    """Return rows per second of COPY into the events of a database."""
    arguments = ["--url", url, "--projects", bench.site.project_list, "--seconds", seconds]
    copied = run_program("copy", [*arguments, *(["--message-ids"] if message_ids else [])], Copied)
    return copied.rows / copied.seconds


def _accepted_rate(bench: Bench, worker: Deployment, *, message_ids: bool, seconds: float) -> float:
    requests = bench.batches(message_ids=message_ids)
    answer = saturate(worker.address, requests, connections=CONNECTIONS, seconds=seconds)
    return answer.rate * BATCH_EVENTS


def _row(message_ids: bool) -> Row:
    return Row(
        id=f"batch{suffix(message_ids)}",
        group=NAME,
        title=f"Durable POST of a hundred events, one web worker{with_ids(message_ids)}",
        unit="events/s",
        rounds=[],
        goals=[*_GOALS, WITHOUT_GOAL] if message_ids else list(_GOALS),
        labels={"boost": "Boost", "copy": "COPY by asyncpg, two connections", **WITHOUT_LABEL, **COST_LABELS},
    )
