"""Organizations and projects: made, found, and deleted with all that hangs on them."""

from __future__ import annotations

import datetime as dt
from uuid import UUID, uuid4

import pytest
import uuid_utils.compat

from boost_streams.errors import Conflict, NotFound
from db.pool import Database
from db.projects import (
    create_project_across_projects,
    delete_organization_across_projects,
    delete_project_across_projects,
    find_project_across_projects,
    get_project_across_projects,
    list_projects_across_projects,
)
from tests.support.projects import TestProject

OWNED = ("api_keys", "events", "end_users", "event_retries", "rollups")
NOW = dt.datetime.now(dt.UTC)


async def fill(database: Database, project_id: UUID, rows: int = 1) -> None:
    """Give a project rows in every table that belongs to it."""
    ids = [uuid_utils.compat.uuid7() for _ in range(rows)]
    async with database.across_projects() as connection:
        await connection.execute(
            "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
            "SELECT id, $2, 'click', '{}', now() FROM unnest($1::uuid[]) AS id",
            ids,
            project_id,
        )
        await connection.execute(
            "INSERT INTO event_retries (project_id, event_id, attempt, due_at) "
            "SELECT $2, id, 1, now() FROM unnest($1::uuid[]) AS id",
            ids,
            project_id,
        )
        await connection.execute(
            "INSERT INTO end_users (project_id, id, user_id, first_seen_at, last_seen_at) "
            "SELECT $2, id, id::text, now(), now() FROM unnest($1::uuid[]) AS id",
            ids,
            project_id,
        )
        await connection.execute(
            "INSERT INTO rollups (project_id, metric, bucket_start, key, dimensions, count) "
            "SELECT $2, 'events', now(), id, '{}', 1 FROM unnest($1::uuid[]) AS id",
            ids,
            project_id,
        )


async def count(database: Database, table: str, project_id: UUID) -> int:
    async with database.across_projects() as connection:
        found: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE project_id = $1", project_id)
    return found


async def test_a_project_is_found_by_id_and_by_name(database: Database) -> None:
    async with database.across_projects() as connection:
        made = await create_project_across_projects(connection, "shop", organization="acme")
        assert await get_project_across_projects(connection, made.id) == made
        assert await find_project_across_projects(connection, "shop", organization="acme") == made
        assert await find_project_across_projects(connection, "shop") is None
        assert await list_projects_across_projects(connection) == [made]
    assert made.organization == "acme"


async def test_two_projects_of_an_organization_cannot_share_a_name(database: Database) -> None:
    async with database.across_projects() as connection:
        first = await create_project_across_projects(connection, "shop")
        with pytest.raises(Conflict):
            await create_project_across_projects(connection, "shop")
        elsewhere = await create_project_across_projects(connection, "shop", organization="acme")
        assert [p.id for p in await list_projects_across_projects(connection)] == [elsewhere.id, first.id]
        again = await create_project_across_projects(connection, "blog")
    assert again.organization_id == first.organization_id


async def test_a_project_that_does_not_exist(database: Database) -> None:
    async with database.across_projects() as connection:
        with pytest.raises(NotFound):
            await get_project_across_projects(connection, uuid4())
        with pytest.raises(NotFound):
            await delete_project_across_projects(connection, uuid4())
        with pytest.raises(NotFound):
            await delete_organization_across_projects(connection, uuid4())


async def test_a_large_project_is_deleted_in_batches(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    await fill(database, project.id, 25)
    await fill(database, other_project.id, 3)
    steps: list[tuple[str, int]] = []
    async with database.across_projects() as connection:
        removed = await delete_project_across_projects(
            connection, project.id, chunk=10, progress=lambda table, rows: steps.append((table, rows))
        )
    assert removed == {
        "events": 25, "event_retries": 25, "dead_letters": 0, "end_users": 25, "rollups": 25, "projects": 1
    }  # fmt: skip
    assert steps[:3] == [("events", 10), ("events", 20), ("events", 25)]
    assert steps[-1] == ("projects", 1)
    for table in OWNED:
        assert await count(database, table, project.id) == 0
        assert await count(database, table, other_project.id) > 0


async def test_events_of_many_days_are_deleted_with_their_project(database: Database, project: TestProject) -> None:
    days = [NOW - dt.timedelta(days=1), NOW, NOW + dt.timedelta(days=2)]
    async with database.across_projects() as connection:
        for day in days:
            await connection.execute(
                "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
                "VALUES ($1, $2, 'click', '{}', now())",
                UUID(int=(int(day.timestamp() * 1000) << 80) | (0x7 << 76) | (0x2 << 62)),
                project.id,
            )
        removed = await delete_project_across_projects(connection, project.id, chunk=2)
    assert removed["events"] == 3


@pytest.mark.parametrize("table", OWNED)
async def test_the_cascade_is_the_net(database: Database, project: TestProject, table: str) -> None:
    await fill(database, project.id)
    assert await count(database, table, project.id) == 1
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM projects WHERE id = $1", project.id)
    assert await count(database, table, project.id) == 0


@pytest.mark.parametrize("table", OWNED)
async def test_deleting_an_organization_by_sql_removes_what_hangs_on_it(
    database: Database, project: TestProject, table: str
) -> None:
    await fill(database, project.id)
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM organizations WHERE name = 'default'")
        assert await list_projects_across_projects(connection) == []
    assert await count(database, table, project.id) == 0


async def test_deleting_an_organization_takes_its_projects_and_no_others(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    await fill(database, project.id)
    async with database.across_projects() as connection:
        mine = await get_project_across_projects(connection, project.id)
        await delete_organization_across_projects(connection, mine.organization_id)
        left = await list_projects_across_projects(connection)
        assert [p.id for p in left] == [other_project.id]
        assert await connection.fetchval("SELECT count(*) FROM organizations WHERE id = $1", mine.organization_id) == 0
    for table in OWNED:
        assert await count(database, table, project.id) == 0


async def test_keys_are_revoked_before_the_first_event_goes(database: Database, project: TestProject) -> None:
    await fill(database, project.id, 3)
    seen: list[int] = []

    async with database.across_projects() as connection, database.across_projects() as observer:

        class Stop(Exception):
            pass

        def stop(table: str, rows: int) -> None:
            seen.append(rows)
            raise Stop

        with pytest.raises(Stop):
            await delete_project_across_projects(connection, project.id, chunk=1, progress=stop)
        unrevoked = "SELECT count(*) FROM api_keys WHERE project_id = $1 AND revoked_at IS NULL"
        assert await observer.fetchval(unrevoked, project.id) == 0
        # What was interrupted is taken up where it was left.
        removed = await delete_project_across_projects(connection, project.id)
    assert seen == [1]
    assert removed["events"] == 2
