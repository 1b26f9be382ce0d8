"""The oracle: what clients were promised equals what is stored, and effects equal a fold over the rows of `events`.

It is one function, `judge`, that holds after any fault and under any order of delivery, once nothing is under way:

* each event that a client got a 202 for is a row that is `processed` or `failed`, as its handler says;
* no row is there that nobody was promised, but for what a client sent without a messageId and got no answer for;
* an event with a messageId is stored once, however often it was sent;
* counters and end users equal a fold over the rows in the order of `occurred_at`; batches and retries are gone.

The fold is written out here on purpose, one event at a time: it shares no code with what it judges but the handlers.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from agents.handlers import load_registry
from boost_streams.events import Event
from boost_streams.outcomes import Count, EndUserSeen, Outcome, Processed
from db.batches import record_of_row
from db.pool import Database

Handle = Callable[[Event], Outcome]
_Counters = dict[tuple[UUID, str, dt.datetime, tuple[str, ...]], tuple[int, Decimal]]


@dataclass(slots=True)
class Promise:
    """What clients know of one event that they sent, named by its `sessionId`."""

    name: str
    message_id: str | None = None
    #: The ids of its 202s: more than one only if it was sent again though it had been taken.
    ids: set[str] = field(default_factory=set)
    #: How many requests may have been taken though the client does not know.
    unanswered: int = 0
    #: The request was refused for good (4xx): nothing may be stored.
    refused: bool = False


@dataclass(slots=True)
class Verdict:
    """What the oracle found. Everything but `events` and `accepted` must be empty."""

    events: int = 0
    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    wrong_status: list[str] = field(default_factory=list)
    wrong_counters: list[str] = field(default_factory=list)
    wrong_users: list[str] = field(default_factory=list)
    left_over: int = 0

    @property
    def problems(self) -> dict[str, Any]:
        """What is wrong, by name; empty when all is well."""
        names = ("lost", "unasked", "doubled", "pending", "wrong_status", "wrong_counters", "wrong_users", "left_over")
        return {name: value for name in names if (value := getattr(self, name))}

    def hold(self) -> None:
        """Assert that nothing is wrong."""
        shown = {name: (len(v), v[:5]) if isinstance(v, list) else v for name, v in self.problems.items()}
        assert not shown, f"of {self.accepted} accepted events (number, examples): {shown}"


def registered() -> Handle:
    """Return what asks the registered handlers about an event."""
    registry = load_registry()
    return lambda event: registry.handler_of(event.event_type).handle(event)


async def unsettled(database: Database) -> int:
    """Count events that are not terminal yet."""
    async with database.across_projects() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM events WHERE status = 'pending'")
    return count


async def check(database: Database, accepted: Collection[str], *, unanswered: int = 0) -> None:
    """Assert that these events, and no others, are stored, terminal, and counted once.

    At most `unanswered` more may be stored: those of requests of which the client cannot know.
    """
    promises = [Promise(name="", ids={event_id}) for event_id in accepted]
    await _checked(database, [*promises, Promise(name="", unanswered=unanswered)])


async def _checked(database: Database, promises: Sequence[Promise]) -> None:
    (await judge(database, promises, named=False)).hold()


async def judge(
    database: Database, promises: Sequence[Promise], handle: Handle | None = None, *, named: bool = True
) -> Verdict:
    """Compare what clients know with what is stored. Call it when nothing is under way any more.

    Args:
        database: Where the events are.
        promises: Every event that clients sent, and what they were answered.
        handle: What the handlers say of an event; the registered handlers by default.
        named: Whether each event carries its promise's name as its `sessionId`.
    """
    async with database.across_projects() as connection, connection.transaction(isolation="repeatable_read"):
        rows = await connection.fetch("SELECT * FROM events ORDER BY occurred_at, id", timeout=60)
        rollups = await connection.fetch("SELECT * FROM current_rollups", timeout=60)
        users = await connection.fetch("SELECT * FROM end_users", timeout=60)
        left = await connection.fetchval(
            "SELECT (SELECT count(*) FROM event_batches) + (SELECT count(*) FROM event_retries)"
        )
    verdict = Verdict(events=len(rows), accepted=sum(len(promise.ids) for promise in promises), left_over=left)
    _judge_rows(verdict, promises, rows, named=named)
    counters, seen = _fold(verdict, rows, handle or registered())
    _judge_counters(verdict, counters, rollups)
    _judge_users(verdict, seen, users)
    return verdict


def _judge_rows(verdict: Verdict, promises: Sequence[Promise], rows: Sequence[Any], *, named: bool) -> None:
    stored = {str(row["id"]): row for row in rows}
    promised = {event_id for promise in promises for event_id in promise.ids}
    verdict.lost = sorted(promised - set(stored))
    verdict.pending = [event_id for event_id, row in stored.items() if row["status"] == "pending"]
    if not named:
        unasked = sorted(set(stored) - promised)
        verdict.unasked = unasked if len(unasked) > sum(promise.unanswered for promise in promises) else []
        return
    times_stored = Counter(row["session_id"] for row in rows)
    by_name = {promise.name: promise for promise in promises}
    for name, times in times_stored.items():
        promise = by_name.get(name)
        if promise is None or promise.refused:
            verdict.unasked.append(f"session {name}")
        elif promise.message_id is not None and times > 1:
            verdict.doubled.append(f"messageId {promise.message_id}: {times} rows")
        elif promise.message_id is None and times > len(promise.ids) + promise.unanswered:
            verdict.doubled.append(f"session {name}: {times} rows")
    for event_id in promised & set(stored):
        promise = by_name[stored[event_id]["session_id"]]
        if event_id not in promise.ids:
            verdict.unasked.append(f"{event_id} was promised to another event")


@dataclass(slots=True)
class _User:
    traits: dict[str, Any] = field(default_factory=dict)
    first: dt.datetime | None = None
    last: dt.datetime | None = None
    signed_up: dt.datetime | None = None
    logins: int = 0


def _fold(verdict: Verdict, rows: Sequence[Any], handle: Handle) -> tuple[_Counters, dict[tuple[UUID, str], _User]]:
    """Apply events one after the other, oldest first: what comes later overwrites."""
    counters: _Counters = {}
    users: dict[tuple[UUID, str], _User] = {}

    def add(
        event: Event, metric: str, start: dt.datetime, dimensions: tuple[str, ...], n: int, amount: Decimal
    ) -> None:
        key = (event.project_id, metric, start, dimensions)
        count, total = counters.get(key, (0, Decimal(0)))
        counters[key] = (count + n, total + amount)

    for row in rows:
        event = Event.of_record(record_of_row(row))
        outcome = handle(event)
        status = "processed" if isinstance(outcome, Processed) else "failed"
        if row["status"] not in ("pending", status):
            verdict.wrong_status.append(
                f"{event.id} ({event.event_type}) is {row['status']}, its handler says {status}"
            )
        hour = event.occurred_at.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
        add(event, "events_per_hour", hour, (event.event_type, status), 1, Decimal(0))
        for effect in outcome.effects if isinstance(outcome, Processed) else ():
            if isinstance(effect, Count):
                start = hour if effect.bucket == "hour" else hour.replace(hour=0)
                add(event, effect.metric, start, effect.dimensions, effect.count, effect.amount)
            else:
                _see(users.setdefault((event.project_id, effect.user_id), _User()), event, effect)
    return counters, users


def _see(user: _User, event: Event, effect: EndUserSeen) -> None:
    user.first = user.first or event.occurred_at
    user.last = event.occurred_at
    user.traits.update(effect.traits)
    user.logins += effect.logged_in
    if effect.signed_up:
        user.signed_up = user.signed_up or event.occurred_at


def _judge_counters(verdict: Verdict, expected: _Counters, rollups: Sequence[Any]) -> None:
    found = {
        (row["project_id"], row["metric"], row["bucket_start"], tuple(row["dimensions"])): (row["count"], row["amount"])
        for row in rollups
        if row["count"] or row["amount"]  # a failure taken back by a retry leaves a row of nothing
    }
    for key in sorted({*found, *expected}, key=repr):
        if found.get(key) != expected.get(key):
            verdict.wrong_counters.append(f"{key[1:]}: found {found.get(key)}, expected {expected.get(key)}")


def _judge_users(verdict: Verdict, expected: Mapping[tuple[UUID, str], _User], rows: Sequence[Any]) -> None:
    found = {(row["project_id"], row["user_id"]): row for row in rows}
    for key in {*found, *expected}:
        row, user = found.get(key), expected.get(key)
        if row is None or user is None:
            verdict.wrong_users.append(f"{key[1]}: found {row is not None}, expected {user is not None}")
            continue
        plain = msgspec.json.decode(msgspec.json.encode(user.traits, enc_hook=str))
        there = (row["first_seen_at"], row["last_seen_at"], row["signed_up_at"], row["logins"])
        wanted = (user.first, user.last, user.signed_up, user.logins)
        if there != wanted or msgspec.json.decode(row["traits"]) != plain:
            verdict.wrong_users.append(f"{key[1]}: found {there} {row['traits']!r}, expected {wanted} {plain}")
