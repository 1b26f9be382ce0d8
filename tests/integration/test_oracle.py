"""The oracle of the fault suite sees what it is there to see: each kind of harm, done on purpose, is named."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from agents.effects import Settled
from agents.settlement import Settlement
from boost_streams.event_id import event_ids, new_batch_id
from boost_streams.events import Event
from db.batches import record_of_row
from db.intake import store_batch_across_projects
from db.new_events import NewEvent
from db.pool import Database
from db.rollups import fold_across_projects
from tests.support import oracle
from tests.support.oracle import Promise
from tests.support.projects import TestProject

_TYPES = (
    ("page_view", b'{"url": "/a"}'),
    ("page_view", b"{}"),
    ("user_login", b'{"traits": {"plan": "free"}}'),
    ("user_signup", b'{"traits": {"plan": "paid"}}'),
    ("payment_completed", b'{"amount": "3.50", "currency": "EUR"}'),
)


@pytest.fixture
async def promises(database: Database, project: TestProject) -> list[Promise]:
    """Events, stored and settled as they should be."""
    batch_id = new_batch_id()
    ids = event_ids(batch_id, len(_TYPES))
    new = [
        NewEvent(project.id, name, payload, user_id="u", session_id=f"s{n}", message_id=f"m{n}")
        for n, (name, payload) in enumerate(_TYPES)
    ]
    async with database.across_projects() as connection:
        await store_batch_across_projects(connection, batch_id, new, worker_id=uuid4(), seq=1, stuck_after_seconds=300)
        rows = await connection.fetch("SELECT * FROM events")
    handle = oracle.registered()
    settled = [Settled(event, handle(event)) for row in rows for event in [Event.of_record(record_of_row(row))]]
    await Settlement(database).settle("model", settled)
    async with database.across_projects() as connection:
        await fold_across_projects(connection, at_once=True)
    return [Promise(f"s{n}", f"m{n}", {str(event_id)}) for n, event_id in enumerate(ids)]


async def problems(database: Database, promises: list[Promise]) -> set[str]:
    return set((await oracle.judge(database, promises)).problems)


async def test_what_is_as_it_should_be_has_no_problems(database: Database, promises: list[Promise]) -> None:
    assert await problems(database, promises) == set()
    await oracle.check(database, [event_id for promise in promises for event_id in promise.ids])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("DELETE FROM events WHERE session_id = 's0'", {"lost", "wrong_counters"}),
        ("UPDATE events SET status = 'pending' WHERE session_id = 's0'", {"pending"}),
        ("UPDATE events SET status = 'processed' WHERE session_id = 's1'", {"wrong_status"}),
        ("UPDATE events SET session_id = 's0' WHERE session_id = 's1'", {"doubled", "unasked"}),
        ("UPDATE rollups SET count = count + 1 WHERE metric = 'page_views'", {"wrong_counters"}),
        ("UPDATE rollups SET amount = amount + 0.01 WHERE metric = 'revenue'", {"wrong_counters"}),
        ("DELETE FROM rollups WHERE metric = 'revenue'", {"wrong_counters"}),
        ("UPDATE end_users SET logins = 2", {"wrong_users"}),
        ('UPDATE end_users SET traits = \'{"plan": "free"}\'', {"wrong_users"}),
        ("DELETE FROM end_users", {"wrong_users"}),
        (
            "INSERT INTO event_retries (project_id, event_id, attempt, due_at) SELECT id, id, 1, now() FROM projects",
            {"left_over"},
        ),
    ],
)
async def test_harm_is_named(database: Database, promises: list[Promise], harm: str, named: set[str]) -> None:
    async with database.across_projects() as connection:
        await connection.execute(harm)
    assert await problems(database, promises) == named


async def test_what_was_refused_or_never_sent_may_not_be_there(database: Database, promises: list[Promise]) -> None:
    promises[0] = Promise("s0", "m0", refused=True)
    assert await problems(database, promises) == {"unasked"}
    assert await problems(database, promises[1:]) == {"unasked"}


async def test_without_a_message_id_as_many_rows_as_tries_without_an_answer_are_fine(
    database: Database, project: TestProject, promises: list[Promise]
) -> None:
    promises[0] = Promise("s0", None, promises[0].ids, unanswered=1)
    again = [UUID(int=UUID(event_id).int) for event_id in promises[1].ids]
    async with database.across_projects() as connection:
        await connection.execute("UPDATE events SET session_id = 's0' WHERE id = ANY($1)", again)
    promises[1].ids.clear()
    assert await problems(database, promises) == set()
    promises[0].unanswered = 0
    assert await problems(database, promises) == {"doubled"}
