"""Bytes of write-ahead log for an event from its insert to its settlement, beside those of COPY of such rows.

A page is written to it as a whole the first time that it changes after a checkpoint, be it by an event or by the vacuum
of earlier ones. That is paid once until the next one (`checkpoint_timeout`), so no round begins with a checkpoint; what
the same load costs right after one is measured at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from bench.bodies import EVENT_BYTES
from bench.ceilings.copy import Copied
from bench.ceilings.programs import run_program
from bench.database import ask
from bench.deployment import Deployment, deployed
from bench.load.wrk import saturate
from bench.meter import COST_LABELS, cost_since, read
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids

NAME = "wal"
ROWS = ("wal", "wal.ids")
CONNECTIONS = 64
_COPIED_ROWS = 20_000
_LIMITS = {False: 800.0, True: 1100.0}


def measure(bench: Bench) -> Iterable[Row]:
    """Measure around single POSTs of 64 connections, without and with messageId."""
    rows = {ids: _row(ids) for ids in bench.variants(NAME)}
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(deployed(bench.site, "wal", "web,agents,sweeper"))
        copied = stack.enter_context(bench.site.database("bench_wal_copy"))
        with ask(worker.url) as question:
            question.checkpoint()
        for ids in rows:
            _ours(bench, worker, ids)
        for number in range(bench.effort.rounds):
            for ids, row in rows.items():
                row.rounds.append({**_ours(bench, worker, ids), "copy": _copy(bench, copied, ids)})
                shown = {name: row.rounds[-1][name] for name in ("boost", "copy", "per_commit")}
                bench.end_round(number, row.id, shown)
        for ids, row in rows.items():
            with ask(worker.url) as question:
                question.checkpoint()
            row.rounds[-1]["after_checkpoint"] = _ours(bench, worker, ids)["boost"]
    return rows.values()


def _ours(bench: Bench, worker: Deployment, message_ids: bool) -> dict[str, float]:
    before = read(worker)
    commits = worker.metric("boost_commit_events_count")
    requests = bench.single(message_ids=message_ids)
    saturate(worker.address, requests, connections=CONNECTIONS, seconds=bench.effort.seconds)
    worker.wait_until_settled()
    cost = cost_since(worker, before)
    events = worker.accepted() - before.accepted
    per_commit = events / max(1.0, worker.metric("boost_commit_events_count") - commits)
    return {"boost": cost.pop("wal_bytes"), **cost, "per_commit": per_commit}


def _copy(bench: Bench, url: str, message_ids: bool) -> float:
    arguments = ["--url", url, "--projects", bench.site.project_list, "--rows", _COPIED_ROWS]
    with ask(url) as question:
        lsn = question.wal()
        copied = run_program("copy", [*arguments, *(["--message-ids"] if message_ids else [])], Copied)
        return question.wal_bytes_since(lsn) / copied.rows


def _row(message_ids: bool) -> Row:
    return Row(
        id=f"wal{suffix(message_ids)}",
        group=NAME,
        title=f"WAL per event of {EVENT_BYTES} bytes, insert to settled{with_ids(message_ids)}",
        unit="bytes",
        rounds=[],
        goals=[Goal("bytes", "<=", _LIMITS[message_ids])],
        labels={
            "boost": "Boost",
            "copy": "COPY of the rows",
            "after_checkpoint": "right after a checkpoint, bytes",
            **{name: label for name, label in COST_LABELS.items() if name != "wal_bytes"},
            "per_commit": "events in one commit",
        },
    )
