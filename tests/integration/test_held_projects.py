"""An event never outlives its project, however its commit and the project's deletion meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from boost_streams.event_id import event_ids, new_batch_id
from db.pool import Database
from tests.support.projects import TestProject
from tests.support.stored_events import store
from tests.support.waiting import eventually

DELETE = "DELETE FROM projects WHERE id = $1"
INSERT = "INSERT INTO events (id, project_id, event_type, payload, occurred_at) VALUES ($1, $2, 'click', '{}', now())"
WAITING = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE pid = $1 AND NOT granted)"


def one_id() -> UUID:
    return event_ids(new_batch_id(), 1)[0]


async def owners(database: Database) -> list[UUID]:
    async with database.across_projects() as connection:
        return [row["project_id"] for row in await connection.fetch("SELECT project_id FROM events")]


async def until_it_waits(database: Database, connection: Any) -> None:
    """Wait until a connection waits for a lock of another."""

    async def waits() -> bool:
        async with database.across_projects() as observer:
            return bool(await observer.fetchval(WAITING, connection.get_server_pid()))

    await eventually(waits)


async def run(connection: Any, statement: str, *arguments: object) -> None:
    await connection.execute(statement, *arguments)


async def test_an_event_of_no_project_is_refused(database: Database, project: TestProject) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="project that does not exist"):
        await store(database, uuid4(), "click")
    async with database.across_projects() as connection:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await connection.executemany(INSERT, [(one_id(), project.id), (one_id(), uuid4())])
    assert await owners(database) == []


async def test_a_deletion_waits_for_a_commit_under_way_and_takes_its_events(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    await store(database, other_project.id, "click")
    async with database.across_projects() as intake, database.across_projects() as deleting:
        transaction = intake.transaction()
        await transaction.start()
        await intake.execute(INSERT, one_id(), project.id)
        deletion = asyncio.create_task(run(deleting, DELETE, project.id))
        await until_it_waits(database, deleting)
        assert not deletion.done()
        await transaction.commit()
        await deletion
    assert await owners(database) == [other_project.id]


@contextlib.asynccontextmanager
async def a_commit_that_met_a_deletion(
    database: Database, project: TestProject
) -> AsyncIterator[tuple[asyncio.Task[None], Any]]:
    """Lend a commit that waits for the deletion of its project, and the transaction of that."""
    async with database.across_projects() as intake, database.across_projects() as deleting:
        transaction = deleting.transaction()
        await transaction.start()
        await deleting.execute(DELETE, project.id)
        commit = asyncio.create_task(run(intake, INSERT, one_id(), project.id))
        await until_it_waits(database, intake)
        assert not commit.done()
        yield commit, transaction


async def test_a_commit_that_meets_a_deletion_is_refused_once_that_is_done(
    database: Database, project: TestProject
) -> None:
    async with a_commit_that_met_a_deletion(database, project) as (commit, deletion):
        await deletion.commit()
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await commit
    assert await owners(database) == []


async def test_a_commit_goes_through_where_the_deletion_is_rolled_back(
    database: Database, project: TestProject
) -> None:
    async with a_commit_that_met_a_deletion(database, project) as (commit, deletion):
        await deletion.rollback()
        await commit
    assert await owners(database) == [project.id]


async def test_commits_of_one_project_do_not_wait_for_each_other(database: Database, project: TestProject) -> None:
    async with database.across_projects() as one, database.across_projects() as other:
        transaction = one.transaction()
        await transaction.start()
        await one.execute(INSERT, one_id(), project.id)
        async with asyncio.timeout(5):
            await other.execute(INSERT, one_id(), project.id)
        await transaction.commit()
    assert await owners(database) == [project.id] * 2
