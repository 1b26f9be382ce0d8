"""What must not grow with the table: a sweep, and a page of a project's events, at ten million rows."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

from bench.database import ask
from bench.filling import fill
from bench.loader import store_events
from bench.results import Goal, Row
from bench.run import Bench, suffix, with_ids
from bench.statistics import percentile
from bench.sweeping import SweepTarget, sweeping
from db.events import EventFilter, list_events
from db.pool import Database

NAME = "large_table"
PROJECTS = 1_000
_PAGE = 50
_LISTS = 400
_STUCK = 1_000
_QUEUED = 200_000
_PER_BATCH = 100
_LISTED: dict[str, tuple[str, float, EventFilter]] = {
    "list.newest": ("the newest 50 of a project", 5.0, EventFilter()),
    "list.status": ("the newest 50 that failed", 20.0, EventFilter(status="failed")),
    "list.type": ("the newest 50 of a type", 20.0, EventFilter(event_type="payment_completed")),
}
_SWEPT: dict[str, tuple[str, Goal]] = {
    "sweep.nothing": ("A sweep with nothing stuck", Goal("ms", "<=", 50)),
    "sweep.stuck": (f"A sweep with {_STUCK:,} events stuck", Goal("ms", "<=", 500)),
    "sweep.queued": (
        f"A sweep with {_QUEUED:,} events queued behind a backlog: events published again",
        Goal("published again", "<=", 0),
    ),
}
_NAMES = (*_SWEPT, *_LISTED)
ROWS = tuple(f"{name}{suffix(ids)}" for ids in (False, True) for name in _NAMES)


def measure(bench: Bench) -> Iterable[Row]:
    """Fill a database, then sweep and list in each round; another one whose events carry a messageId."""
    return [row for ids in bench.variants(*_NAMES) for row in _measure_variant(bench, message_ids=ids)]


def _measure_variant(bench: Bench, *, message_ids: bool) -> Iterable[Row]:
    events = bench.effort.events
    rows = {name: row for name, row in _rows(events, message_ids).items() if bench.wanted(row.id)}
    with bench.site.database("bench_large") as url:
        fill(url, bench.site.bodies, rows=events, projects=PROJECTS, say=bench.say, message_ids=message_ids)
        asyncio.run(_measure_all(bench, url, rows, message_ids))
    return rows.values()


async def _measure_all(bench: Bench, url: str, rows: dict[str, Row], message_ids: bool) -> None:
    database = Database(url)
    await database.open()
    try:
        async with sweeping(database, bench.site.kafka.bootstrap) as target:
            for number in range(bench.effort.rounds):
                store = functools.partial(
                    store_events, url, [project.id for project in bench.site.projects], message_ids=message_ids
                )
                measured = await _round(database, url, target, rows, store)
                for name, values in measured.items():
                    rows[name].rounds.append(values)
                    bench.show_round(number, rows[name].id, values)
    finally:
        await database.close()


async def _round(
    database: Database, url: str, target: SweepTarget, rows: dict[str, Row], store: Callable[..., Awaitable[Any]]
) -> dict[str, dict[str, float]]:
    measured: dict[str, dict[str, float]] = {}
    for name, (_, _, wanted) in _LISTED.items():
        if name in rows:
            measured[name] = await _list(database, wanted)
    if "sweep.nothing" in rows:
        measured["sweep.nothing"] = await _sweep(target)
    if "sweep.stuck" in rows:
        await store(_STUCK, 10, stuck_after_seconds=-1)
        measured["sweep.stuck"] = await _sweep(target)
        _forget_batches(url)
    if "sweep.queued" in rows:
        await store(_QUEUED, _PER_BATCH, stuck_after_seconds=-1)
        measured["sweep.queued"] = await _sweep_behind_backlog(target)
        _forget_batches(url)
    return measured


async def _sweep(target: SweepTarget) -> dict[str, float]:
    started = time.perf_counter()
    published = await target.all_passed.sweep_stuck()
    return {"boost": (time.perf_counter() - started) * 1e3, "published": float(published)}


async def _sweep_behind_backlog(target: SweepTarget) -> dict[str, float]:
    async with target.consumers_behind():
        started = time.perf_counter()
        published = await target.behind.sweep_stuck()
    return {"boost": float(published), "milliseconds": (time.perf_counter() - started) * 1e3}


def _forget_batches(url: str) -> None:
    with ask(url) as question:
        question.run("TRUNCATE event_batches")


async def _list(database: Database, wanted: EventFilter) -> dict[str, float]:
    """Time pages of projects taken at random, some large and some small."""
    chance = random.Random(len(str(wanted)))
    taken, found = [], 0
    for _ in range(_LISTS):
        project = _project(int(PROJECTS * chance.random() ** 2))
        async with database.for_project(project) as connection:
            started = time.perf_counter()
            page = await list_events(connection, project, limit=_PAGE, now=dt.datetime.now(dt.UTC), wanted=wanted)
            taken.append((time.perf_counter() - started) * 1e3)
            found += len(page.items)
    return {"boost": percentile(taken, 0.99), "p50": percentile(taken, 0.5), "items": found / _LISTS}


def _project(number: int) -> UUID:
    return UUID(hashlib.md5(f"bench project {number}".encode(), usedforsecurity=False).hexdigest())


def _rows(events: int, message_ids: bool) -> dict[str, Row]:
    at = f"at {events:,} rows"
    swept = {name: _row(name, f"{title}, {at}", goal, message_ids) for name, (title, goal) in _SWEPT.items()}
    listed = {
        name: _row(name, f"p99 of listing {title}, {at} of {PROJECTS:,} projects", Goal("ms", "<=", limit), message_ids)
        for name, (title, limit, _) in _LISTED.items()
    }
    return swept | listed


def _row(name: str, title: str, goal: Goal, message_ids: bool) -> Row:
    labels = {
        "boost": "Boost",
        "published": "events published again",
        "milliseconds": "time, ms",
        "p50": "p50, ms",
        "items": "events found per page",
    }
    unit = "events" if name == "sweep.queued" else "ms"
    row_id, title = f"{name}{suffix(message_ids)}", f"{title}{with_ids(message_ids)}"
    return Row(id=row_id, group=NAME, title=title, unit=unit, rounds=[], goals=[goal], labels=labels)
