"""Effects and status commit together, once per event however often it is delivered, in any order."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents.effects import Settled
from agents.handlers import load_registry
from agents.registry import MAX_ATTEMPTS
from agents.settlement import Settlement
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, Processed, TryAgain, failed, processed
from boost_streams.records import EventRecord
from db.batches import record_of_row
from db.events import retry_event
from db.pool import Database
from tests.support.projects import make_project
from tests.support.stored_events import store

REGISTRY = load_registry()


async def fetch(database: Database, sql: str, *args: object) -> list[Any]:
    async with database.across_projects() as connection:
        return await connection.fetch(sql, *args)


async def events_of(database: Database, ids: list[UUID]) -> list[Event]:
    rows = await fetch(database, "SELECT * FROM events WHERE id = ANY($1::uuid[]) ORDER BY id", ids)
    return [Event.of_record(record_of_row(row)) for row in rows]


def handled(events: list[Event]) -> list[Settled]:
    return [Settled(event, REGISTRY.handler_of(event.event_type).handle(event)) for event in events]


@pytest.fixture
def settlement(database: Database) -> Settlement:
    return Settlement(database, jitter=lambda: 0.5)


async def test_processed_with_effects_once(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "page_view", "page_view", payload=b'{"url": "/a"}')
    batch = handled(await events_of(database, ids))
    assert len(await settlement.settle("tracking", batch)) == 2
    assert await settlement.settle("tracking", batch) == []
    assert await settlement.settle("tracking", [*batch, *batch]) == []
    (views,) = await fetch(database, "SELECT count FROM current_rollups WHERE metric = 'page_views'")
    assert views["count"] == 2
    (hours,) = await fetch(database, "SELECT count, dimensions FROM current_rollups WHERE metric = 'events_per_hour'")
    assert (hours["count"], hours["dimensions"]) == (2, ["page_view", "processed"])
    assert await fetch(database, "SELECT 1 FROM event_batches") == []
    assert {row["status"] for row in await fetch(database, "SELECT status FROM events")} == {"processed"}


async def test_the_same_event_twice_in_one_batch_counts_once(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo")
    (one,) = handled(await events_of(database, ids))
    assert len(await settlement.settle("default", [one, one])) == 1
    (types,) = await fetch(database, "SELECT count FROM current_rollups WHERE metric = 'event_types'")
    assert types["count"] == 1


async def test_a_failed_event_says_why_and_has_no_effects(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "page_view", "foo")
    await settlement.settle("tracking", handled(await events_of(database, ids)))
    rows = await fetch(database, "SELECT status, error, settled_at FROM events ORDER BY id")
    assert [row["status"] for row in rows] == ["failed", "processed"]
    assert msgspec.json.decode(rows[0]["error"])["field"] == "url"
    assert rows[0]["settled_at"] is not None


async def test_part_of_a_batch_leaves_the_rest_on_its_row(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo", "foo", "foo")
    batch = handled(await events_of(database, ids))
    await settlement.settle("default", batch[:1])
    (row,) = await fetch(database, "SELECT unsettled FROM event_batches")
    assert row["unsettled"] == 2
    await settlement.settle("default", batch)
    assert await fetch(database, "SELECT 1 FROM event_batches") == []


async def test_try_again_moves_to_retries_and_back(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    (event,) = await events_of(database, await store(database, project.id, "foo"))
    await settlement.settle("default", [Settled(event, TryAgain("away", 30))])
    (row,) = await fetch(database, "SELECT status, attempt, settled_at FROM events")
    assert (row["status"], row["attempt"], row["settled_at"]) == ("pending", 1, None)
    (retry,) = await fetch(database, "SELECT attempt, reason, due_at - created_at AS pause FROM event_retries")
    assert (retry["attempt"], retry["reason"], retry["pause"]) == (1, "away", dt.timedelta(seconds=30))
    assert await fetch(database, "SELECT 1 FROM event_batches") == []
    # The first delivery comes again: its attempt is spent, so nothing moves.
    assert await settlement.settle("default", handled([event])) == []
    (second,) = await events_of(database, [event.id])
    assert len(await settlement.settle("default", handled([second]))) == 1
    assert await fetch(database, "SELECT 1 FROM event_retries") == []


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("late_answer", [TryAgain("away"), failed("late", None, "of the first attempt")])
async def test_messages_of_two_attempts_in_one_batch(
    database: Database, settlement: Settlement, newest_first: bool, late_answer: Outcome
) -> None:
    """The first attempt's message comes again before the second's, or behind it: the second's answer counts."""
    project = await make_project(database)
    (first,) = await events_of(database, await store(database, project.id, "foo"))
    await settlement.settle("default", [Settled(first, TryAgain("away"))])
    (second,) = await events_of(database, [first.id])
    batch = [Settled(first, late_answer), *handled([second])]
    moved = await settlement.settle("default", batch[::-1] if newest_first else batch)
    assert [(one.event.attempt, type(one.outcome)) for one in moved] == [(1, Processed)]
    (row,) = await fetch(database, "SELECT status, attempt FROM events")
    assert (row["status"], row["attempt"]) == ("processed", 1)
    assert await fetch(database, "SELECT 1 FROM event_retries") == []
    (types,) = await fetch(database, "SELECT count FROM current_rollups WHERE metric = 'event_types'")
    assert types["count"] == 1


async def test_after_many_attempts_an_event_fails(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    (event,) = await events_of(database, await store(database, project.id, "foo"))
    for attempt in range(MAX_ATTEMPTS):
        (event,) = await events_of(database, [event.id])
        assert event.attempt == attempt
        await settlement.settle("default", [Settled(event, TryAgain("away"))])
    (row,) = await fetch(database, "SELECT status, error FROM events")
    assert row["status"] == "failed"
    assert msgspec.json.decode(row["error"])["code"] == "too_many_attempts"
    assert await fetch(database, "SELECT 1 FROM event_retries") == []
    (hours,) = await fetch(database, "SELECT dimensions FROM current_rollups WHERE metric = 'events_per_hour'")
    assert hours["dimensions"] == ["foo", "failed"]


async def test_a_value_postgresql_refuses_fails_its_own_event(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    events = await events_of(database, await store(database, project.id, *["foo"] * 8))
    batch = handled(events)
    batch[3] = Settled(events[3], processed(Count("metric\x00", ("a",))))
    moved = await settlement.settle("default", batch)
    assert len(moved) == 8
    rows = await fetch(database, "SELECT status, error FROM events ORDER BY id")
    assert [row["status"] for row in rows].count("failed") == 1
    assert rows[3]["status"] == "failed"
    assert msgspec.json.decode(rows[3]["error"])["code"] == "cannot_be_stored"
    (types,) = await fetch(database, "SELECT sum(count) AS n FROM current_rollups WHERE metric = 'event_types'")
    assert types["n"] == 7


async def test_two_settles_with_reversed_input_do_not_deadlock(database: Database) -> None:
    project = await make_project(database)
    types = [f"type-{n}" for n in range(50)]
    users = [f"u-{n}" for n in range(50)]
    conflicts = []

    class Counting(Settlement):
        async def _settle_together(self, *args: Any) -> list[Settled]:
            try:
                return await super()._settle_together(*args)
            except Exception as error:
                conflicts.append(error)
                raise

    del users
    for _ in range(5):
        first = handled(await events_of(database, await store(database, project.id, *types)))
        second = handled(await events_of(database, await store(database, project.id, *types)))
        both = [*first, *second]
        await asyncio.gather(
            Counting(database).settle("default", both),
            Counting(database).settle("default", both[::-1]),
            Counting(database).settle("default", random.Random(7).sample(both, len(both))),
        )
    assert conflicts == []
    counts = await fetch(database, "SELECT count FROM current_rollups WHERE metric = 'event_types'")
    assert [row["count"] for row in counts] == [10] * 50


async def test_traits_merge_by_the_newest_whatever_the_order(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    outcomes = []
    for order in (range(6), reversed(range(6)), [3, 1, 5, 0, 4, 2]):
        ids = await store(database, project.id, *["user_login"] * 6)
        events = await events_of(database, ids)
        user = f"user-{len(outcomes)}"
        sightings = [
            msgspec.structs.replace(
                EventRecord(
                    e.id, e.project_id, "user_signup" if n == 2 else "user_login", start, start, msgspec.Raw(b"{}")
                ),
                occurred_at=start + dt.timedelta(minutes=n),
                user_id=user,
                payload=msgspec.Raw(b'{"name": "n%d", "traits": {"t%d": %d}}' % (n, n % 2, n)),
            )
            for n, e in enumerate(events)
        ]
        for n in order:
            await settlement.settle("user", handled([Event.of_record(sightings[n])]))
        (row,) = await fetch(database, "SELECT * FROM end_users WHERE user_id = $1", user)
        outcomes.append(
            (
                msgspec.json.decode(row["traits"]),
                row["first_seen_at"],
                row["last_seen_at"],
                row["signed_up_at"],
                row["logins"],
            )
        )
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0] == (
        {"name": "n5", "t0": 4, "t1": 5},
        start,
        start + dt.timedelta(minutes=5),
        start + dt.timedelta(minutes=2),
        5,
    )


async def test_settling_an_event_of_a_deleted_project_does_no_harm(database: Database, settlement: Settlement) -> None:
    project, other = await make_project(database), await make_project(database, "other")
    mine = await events_of(database, await store(database, project.id, "foo"))
    theirs = await events_of(database, await store(database, other.id, "foo"))
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM projects WHERE id = $1", other.id)
    moved = await settlement.settle("default", handled([*mine, *theirs]))
    assert [settled.event.id for settled in moved] == [mine[0].id]


async def test_failed_for_good(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    (event,) = await events_of(database, await store(database, project.id, "foo"))
    await settlement.settle("default", [Settled(event, failed("bad", None, "no"))])
    assert await settlement.settle("default", [Settled(event, Processed())]) == []


UNWRITABLE: list[Any] = [
    Count("m", ("a",), amount=1.5),  # type: ignore[arg-type]
    Count("m", (object(),)),  # type: ignore[arg-type]
    Count("m", ("a",), count=None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("effect", UNWRITABLE)
async def test_an_effect_that_cannot_be_written_fails_its_own_event(
    database: Database, settlement: Settlement, effect: Count
) -> None:
    project = await make_project(database)
    events = await events_of(database, await store(database, project.id, *["foo"] * 5))
    batch = handled(events)
    batch[2] = Settled(events[2], processed(effect))
    assert len(await settlement.settle("default", batch)) == 5
    rows = await fetch(database, "SELECT status, error FROM events ORDER BY id")
    assert [row["status"] for row in rows] == ["processed", "processed", "failed", "processed", "processed"]
    assert msgspec.json.decode(rows[2]["error"])["code"] == "handler_answer"


@pytest.mark.parametrize("second", ["failed", "processed"])
async def test_an_event_that_failed_and_was_retried_counts_once(
    database: Database, settlement: Settlement, second: str
) -> None:
    project = await make_project(database)
    (event,) = await events_of(database, await store(database, project.id, "foo"))
    await settlement.settle("default", [Settled(event, failed("bad", None, "no"))])
    async with database.for_project(project.id) as connection:
        await retry_event(connection, project.id, event.id)
    (again,) = await events_of(database, [event.id])
    outcome = failed("bad", None, "no") if second == "failed" else processed()
    assert len(await settlement.settle("default", [Settled(again, outcome)])) == 1
    counts = await fetch(database, "SELECT dimensions, count FROM current_rollups WHERE metric = 'events_per_hour'")
    assert {row["dimensions"][1]: row["count"] for row in counts if row["count"]} == {second: 1}


async def test_an_event_that_moved_before_leaves_its_neighbours_theirs(
    database: Database, settlement: Settlement
) -> None:
    project, other = await make_project(database), await make_project(database, "other")
    ids = [*await store(database, project.id, *["foo"] * 3), *await store(database, other.id, "foo")]
    batch = handled(await events_of(database, ids))
    await settlement.settle("default", [batch[1]])
    moved = await settlement.settle("default", batch)
    assert {settled.event.id for settled in moved} == {ids[0], ids[2], ids[3]}
    rows = await fetch(database, "SELECT project_id, count FROM current_rollups WHERE metric = 'event_types'")
    assert {row["project_id"]: row["count"] for row in rows} == {project.id: 3, other.id: 1}
    assert await fetch(database, "SELECT 1 FROM event_batches") == []


async def test_dimensions_and_amounts_are_stored_as_they_were_said(database: Database, settlement: Settlement) -> None:
    project = await make_project(database)
    dimensions = ("", "NULL", 'a "quoted" text', "back\\slash", "{braces},", " space ", "line\nbreak", "Übersicht")
    (event,) = await events_of(database, await store(database, project.id, "foo"))
    effects = (
        Count("odd", dimensions, amount=Decimal("-0.10")),
        Count("even", dimensions, "hour", 2),
        Count("one", ()),
    )
    await settlement.settle("default", [Settled(event, Processed(effects))])
    rows = await fetch(database, "SELECT * FROM current_rollups WHERE metric <> 'events_per_hour'")
    assert sorted((r["metric"], tuple(r["dimensions"]), r["count"], r["amount"]) for r in rows) == [
        ("even", dimensions, 2, Decimal(0)),
        ("odd", dimensions, 1, Decimal("-0.10")),
        ("one", (), 1, Decimal(0)),
    ]
