"""A shop's handler in several versions, its events, and what counters must say of them."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

from agents.effects import Settled
from agents.handlers import default, tracking
from agents.registry import Example, Handler, Registry
from agents.replaying import run_replay
from agents.settlement import Settlement
from boost_streams.event_id import event_ids, new_batch_id
from boost_streams.events import Event
from boost_streams.outcomes import Count, EndUserSeen, Outcome, Processed, failed, processed, try_again
from db.batches import record_of_row
from db.intake import store_batch_across_projects
from db.new_events import NewEvent
from db.pool import Database
from db.replays import Replay
from db.rollups import fold_across_projects
from tests.support.stored_events import WORKER

TYPES = ("buy", "refund")
Counters = dict[tuple[UUID, str, dt.datetime, tuple[str, ...]], tuple[int, Decimal]]


def answer(event: Event, version: int) -> Outcome:
    """Count purchases: version 1 forgets the amount, later ones add it, and a metric of their own."""
    how = event.payload.get("how")
    if how == "fail" or (how == "fail later" and version > 1):
        return failed("invalid", "how", "on purpose")
    if how == "unstorable" and version > 1:
        return processed(Count("a\x00b", ()))
    if how == "away" and version > 1:
        return try_again("away")
    sold = Count("sold", (event.event_type,), amount=Decimal(event.payload.get("amount", 0) if version > 1 else 0))
    user = EndUserSeen(event.user_id or "", traits={"seen by": version}, logged_in=True)
    return processed(sold, *([Count(f"sold_{version}", (), "hour")] if version > 1 else []), user)


def handler(version: int, types: Sequence[str] = TYPES, name: str = "shop") -> Handler:
    """Return the shop's handler of a version."""
    module = ModuleType(f"agents.handlers.{name}")
    module.FAMILY, module.EVENT_TYPES, module.VERSION = "payment", tuple(types), version  # type: ignore[attr-defined]
    module.handle = lambda event: answer(event, version)  # type: ignore[attr-defined]
    module.EXAMPLES = (Example(types[0], {}),)  # type: ignore[attr-defined]
    return Handler.of_module(module)


def registry(version: int | None, types: Sequence[str] = TYPES) -> Registry:
    """Return a registry with the shop's handler of a version, or without it."""
    built_in = [Handler.of_module(tracking), Handler.of_module(default)]
    own = [] if version is None else [handler(version, types)]
    return Registry([*own, *built_in], ("payment", "tracking", "default"))


async def store_events(
    database: Database, project_id: UUID, *payloads: dict[str, Any], when: dt.datetime | None = None, types: str = "buy"
) -> list[UUID]:
    """Store events of one batch, not settled."""
    batch_id = new_batch_id()
    ids = event_ids(batch_id, len(payloads))
    new = [NewEvent(project_id, types, json.dumps(one).encode(), user_id="u-1", occurred_at=when) for one in payloads]
    async with database.across_projects() as connection:
        await store_batch_across_projects(connection, batch_id, new, worker_id=WORKER, seq=1, stuck_after_seconds=300)
    return ids


async def settle_live(database: Database, ids: Iterable[UUID], version: int | None, attempt_of: int = 0) -> None:
    """Settle events as a worker does that runs a version of the handler."""
    handlers = registry(version)
    settled = []
    for row in await rows_of(database):
        if row["id"] in set(ids):
            event = Event.of_record(record_of_row(row))
            settled.append(Settled(event, handlers.handler_of(event.event_type).handle(event)))
    await Settlement(database, jitter=lambda: 0.0, registry=handlers).settle("payment", settled)


async def rows_of(database: Database) -> list[Any]:
    """Return all rows of events."""
    async with database.across_projects() as connection:
        return await connection.fetch("SELECT * FROM events ORDER BY id")  # type: ignore[no-any-return]


async def counters(database: Database, *, table: str = "current_rollups") -> Counters:
    """Return what questions read of handlers' counters; or what is left in a table, when all is folded."""
    async with database.across_projects() as connection:
        if table == "rollups":
            await fold_across_projects(connection, at_once=True)
        rows = await connection.fetch(
            f"SELECT project_id, metric, bucket_start, dimensions, sum(count)::int AS count, sum(amount) AS amount "
            f"FROM {table} WHERE metric <> 'events_per_hour' GROUP BY 1, 2, 3, 4"
        )
    return {
        (row["project_id"], row["metric"], row["bucket_start"], tuple(row["dimensions"])): (row["count"], row["amount"])
        for row in rows
    }


async def fold(database: Database, version: int | None, *, but: dict[UUID, int] | None = None) -> Counters:
    """Add up processed events one by one under a version; `but` says which are counted under another."""
    sums: Counters = {}
    for row in await rows_of(database):
        if row["status"] != "processed":
            continue
        event = Event.of_record(record_of_row(row))
        handlers = registry((but or {}).get(event.id, version))
        outcome = handlers.handler_of(event.event_type).handle(event)
        for effect in outcome.effects if isinstance(outcome, Processed) else ():
            if not isinstance(effect, Count) or "\x00" in effect.metric:
                continue
            hour = event.occurred_at.replace(minute=0, second=0, microsecond=0)
            start = hour if effect.bucket == "hour" else hour.replace(hour=0)
            key = (event.project_id, effect.metric, start, effect.dimensions)
            count, amount = sums.get(key, (0, Decimal(0)))
            sums[key] = (count + effect.count, amount + effect.amount)
    return sums


async def replay_through(database: Database, number: int, version: int, **options: Any) -> Replay:
    """Run a replay to its end."""
    return await run_replay(database, registry(version), None, number, **{"rate": 0, **options})


async def logins(database: Database) -> Counter[str]:
    """Return the logins of each user."""
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT user_id, logins FROM end_users")
    return Counter({row["user_id"]: row["logins"] for row in rows})
