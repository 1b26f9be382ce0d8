"""A project's own retention deletes what is old and settled, of that project, in pieces."""

from __future__ import annotations

import datetime as dt
from uuid import UUID, uuid4

import pytest

from boost_streams.errors import NotFound
from boost_streams.event_id import batch_of, id_at
from db.pool import Database
from db.retention import delete_expired_events_across_projects, set_retention_across_projects
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
