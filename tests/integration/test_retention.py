"""A project's own retention deletes what is old and settled, of that project, in pieces."""

from __future__ import annotations

import datetime as dt
from uuid import UUID, uuid4

import pytest

from boost_streams.errors import NotFound
from boost_streams.event_id import batch_of, id_at
from db.burial import Burial, Origin, bury_across_projects, bury_message_across_projects
from db.dead_letters import replay_letters
from db.pool import Database
from db.retention import (
    CLOSED_LETTERS_DAYS,
    delete_expired_events_across_projects,
    delete_expired_letters_across_projects,
    set_retention_across_projects,
)
from tests.support.projects import TestProject
from tests.support.stored_events import settle, store

NOW = dt.datetime.now(dt.UTC)
YESTERDAY = NOW - dt.timedelta(days=1)


async def ids_of(database: Database, project: TestProject) -> set[UUID]:
    async with database.for_project(project.id) as connection:
        return {row["id"] for row in await connection.fetch("SELECT id FROM events")}


async def test_what_is_old_and_settled_goes(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    old = await store(database, project.id, *["x"] * 7, batch_id=batch_of(id_at(YESTERDAY)))
    pending = [old[0], old[3], old[6]]  # before, between and behind what goes
    await settle(database, project.id, [old[1], old[2], old[4]], "processed")
    await settle(database, project.id, [old[5]], "failed")
    new = await store(database, project.id, "x")
    await settle(database, project.id, new, "processed")
    of_others = await store(
        database, other_project.id, "x", batch_id=batch_of(id_at(YESTERDAY + dt.timedelta(milliseconds=5)))
    )
    await settle(database, other_project.id, of_others, "processed")
    async with database.across_projects() as connection:
        assert await delete_expired_events_across_projects(connection, now=NOW) == {}
        await set_retention_across_projects(connection, project.id, 2)
        assert await delete_expired_events_across_projects(connection, now=NOW) == {}
        tomorrow = NOW + dt.timedelta(days=1)
        assert await delete_expired_events_across_projects(connection, now=tomorrow, chunk=3) == {}
        later = NOW + dt.timedelta(days=2)
        assert await delete_expired_events_across_projects(connection, now=later, chunk=3) == {project.id: 4}
    assert await ids_of(database, project) == {*pending, *new}
    assert await ids_of(database, other_project) == set(of_others)


async def test_none_takes_the_retention_away(database: Database, project: TestProject) -> None:
    old = await store(database, project.id, "x", batch_id=batch_of(id_at(YESTERDAY)))
    await settle(database, project.id, old, "processed")
    async with database.across_projects() as connection:
        await set_retention_across_projects(connection, project.id, 1)
        await set_retention_across_projects(connection, project.id, None)
        assert await delete_expired_events_across_projects(connection, now=NOW + dt.timedelta(days=9)) == {}
        with pytest.raises(NotFound):
            await set_retention_across_projects(connection, uuid4(), 1)


async def buried(database: Database, project: TestProject, day: dt.datetime, count: int) -> list[UUID]:
    """Store failed events of a day, with their letters."""
    ids = await store(database, project.id, *["x"] * count, batch_id=batch_of(id_at(day)))
    await settle(database, project.id, ids, "failed")
    burials = [Burial(project.id, one, "x", "default", "bad", None, "no", 1, None) for one in ids]
    async with database.across_projects() as connection:
        await bury_across_projects(connection, burials)
    return ids


async def letters(database: Database) -> set[UUID]:
    async with database.across_projects() as connection:
        return {row["id"] for row in await connection.fetch("SELECT id FROM dead_letters")}


@pytest.mark.parametrize(("own", "everybodys"), [(1, 0), (None, 1), (1, 9), (9, 1)])
async def test_a_letter_leaves_with_its_event(
    database: Database, project: TestProject, other_project: TestProject, own: int | None, everybodys: int
) -> None:
    old = await buried(database, project, YESTERDAY, 5)
    new = await buried(database, project, NOW, 1)
    of_others = await buried(database, other_project, YESTERDAY + dt.timedelta(milliseconds=5), 1)
    async with database.for_project(project.id) as connection:
        assert await replay_letters(connection, project.id, old[:1]) == 1  # it is pending, so it stays
    async with database.across_projects() as connection:
        await set_retention_across_projects(connection, project.id, own)
        tomorrow = NOW + dt.timedelta(days=1)
        assert await delete_expired_letters_across_projects(connection, 0 if own else 3, now=NOW) == 0
        removed = await delete_expired_letters_across_projects(connection, everybodys, now=tomorrow, chunk=2)
    theirs = set() if everybodys == 1 else set(of_others)
    assert await letters(database) == {old[0], *new, *theirs}
    assert removed == 4 + (everybodys == 1)


async def test_closed_letters_and_unreadable_messages_leave_after_a_month(
    database: Database, project: TestProject
) -> None:
    ids = await buried(database, project, NOW, 4)
    async with database.across_projects() as connection:
        await bury_message_across_projects(connection, Origin("raw-events", 0, 1), b"x", "not JSON")
        closed = "UPDATE dead_letters SET status = 'resolved', closed_at = now() WHERE id = ANY($1::uuid[])"
        await connection.execute(closed, ids[:3])
        month = dt.timedelta(days=CLOSED_LETTERS_DAYS)
        soon, later = NOW + month - dt.timedelta(hours=1), NOW + month + dt.timedelta(hours=1)
        assert await delete_expired_letters_across_projects(connection, 0, now=soon) == 0
        assert await delete_expired_letters_across_projects(connection, 0, now=later, chunk=2) == 4
    assert await letters(database) == {ids[3]}


async def test_a_letter_that_somebody_has_in_hand_is_left_to_the_next_call(
    database: Database, project: TestProject
) -> None:
    ids = await buried(database, project, NOW, 3)
    later = NOW + dt.timedelta(days=9)
    async with database.across_projects() as connection, database.across_projects() as other:
        await set_retention_across_projects(connection, project.id, 1)
        async with other.transaction():
            await other.execute("UPDATE dead_letters SET replays = 1 WHERE id = $1", ids[1])
            assert await delete_expired_letters_across_projects(connection, 0, now=later) == 2
        assert await delete_expired_letters_across_projects(connection, 0, now=later) == 1
