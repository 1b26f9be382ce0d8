"""The three roles: a tenant sees one project whatever the statement says, and each may do no more than it must."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils.compat

from boost_streams.errors import Unavailable
from db.pool import Database
from tests.support.projects import TestProject
from tests.support.statements import TENANT_TABLES

GUARDED = (*TENANT_TABLES, "projects")
PIPELINE_ONLY = (
    "organizations",
    "event_batches",
    "event_keys_a",
    "event_keys_b",
    "workers",
    "consumer_progress",
    "replays",
    "replay_projects",
    "cutovers",
)


@pytest.fixture
async def filled(database: Database, project: TestProject, other_project: TestProject) -> dict[UUID, UUID]:
    """Give both projects a row in every table; return an event of each."""
    events = {project.id: uuid_utils.compat.uuid7(), other_project.id: uuid_utils.compat.uuid7()}
    async with database.across_projects() as connection:
        for project_id, event_id in events.items():
            for statement in (
                "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
                "VALUES ($2, $1, 'click', '{}', now())",
                "INSERT INTO event_retries (project_id, event_id, attempt, due_at) VALUES ($1, $2, 1, now())",
                "INSERT INTO dead_letters (project_id, id, code, message, attempts) VALUES ($1, $2, 'x', 'x', 1)",
                "INSERT INTO end_users (project_id, id, user_id, first_seen_at, last_seen_at) "
                "VALUES ($1, $2, 'u', now(), now())",
                "INSERT INTO rollups (project_id, metric, bucket_start, key, dimensions, count) "
                "VALUES ($1, 'events', now(), $2, '{}', 1)",
                "INSERT INTO rollup_deltas (project_id, cutover, metrics, starts, keys, dimensions, counts, amounts, "
                "event_types, handlers, versions) "
                "VALUES ($1, 0, '{m}', ARRAY[now()], ARRAY[$2::uuid], ARRAY['{}'], '{1}', '{0}', '{x}', '{h}', '{1}')",
                "INSERT INTO rollup_switches (project_id, cutover, event_types, all_others, since, until) "
                "SELECT $1, 1, '{click}', false, now(), now() WHERE $2::uuid IS NOT NULL",
            ):
                await connection.execute(statement, project_id, event_id)
    return events


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("table", TENANT_TABLES)
async def test_a_tenant_sees_its_own_rows_only(
    database: Database, project: TestProject, other_project: TestProject, table: str
) -> None:
    async with database.for_project(project.id) as tenant:
        everything = await tenant.fetch(f"SELECT project_id FROM {table}")
        assert {row["project_id"] for row in everything} == {project.id}
        wrong = f"SELECT count(*) FROM {table} WHERE project_id = $1 OR true"
        assert await tenant.fetchval(wrong, other_project.id) == 1
        asked = f"SELECT count(*) FROM {table} WHERE project_id = $1"
        assert await tenant.fetchval(asked, other_project.id) == 0
    async with database.across_projects() as pipeline:
        assert await pipeline.fetchval(f"SELECT count(DISTINCT project_id) FROM {table}") == 2


@pytest.mark.usefixtures("filled")
async def test_a_tenant_sees_its_own_project_only(database: Database, project: TestProject) -> None:
    async with database.for_project(project.id) as tenant:
        assert [row["id"] for row in await tenant.fetch("SELECT id FROM projects")] == [project.id]


async def test_a_tenant_changes_nothing_of_another_project(
    database: Database, project: TestProject, other_project: TestProject, filled: dict[UUID, UUID]
) -> None:
    async with database.for_project(project.id) as tenant:
        assert await tenant.execute("UPDATE events SET status = 'failed'") == "UPDATE 1"
        assert await tenant.execute("UPDATE api_keys SET revoked_at = now()") == "UPDATE 1"
    async with database.across_projects() as pipeline:
        untouched = "SELECT status FROM events WHERE id = $1"
        assert await pipeline.fetchval(untouched, filled[other_project.id]) == "pending"
        revoked = "SELECT revoked_at FROM api_keys WHERE id = $1"
        assert await pipeline.fetchval(revoked, other_project.key_id) is None


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO api_keys (id, project_id, key_hash, prefix, name, scopes) "
        "VALUES (gen_random_uuid(), $1, decode(repeat('00', 32), 'hex'), 'x', 'x', '{}')",
        "INSERT INTO event_retries (project_id, event_id, attempt, due_at) VALUES ($1, gen_random_uuid(), 1, now())",
    ],
)
async def test_a_tenant_cannot_write_into_another_project(
    database: Database, project: TestProject, other_project: TestProject, statement: str
) -> None:
    async with database.for_project(project.id) as tenant:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await tenant.execute(statement, other_project.id)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "DELETE FROM api_keys",
        "UPDATE events SET project_id = gen_random_uuid()",
        "UPDATE api_keys SET key_hash = key_hash",
        "UPDATE api_keys SET scopes = '{admin}'",
        "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), 'x', '{}', now())",
        "UPDATE rollups SET count = 0",
        "DELETE FROM rollup_deltas",
        "UPDATE rollup_folds SET folded_to = 0",
        "DELETE FROM dead_letters",
        "UPDATE dead_letters SET message = 'fine'",
        "INSERT INTO dead_letters (project_id, id, code, message, attempts) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), 'x', 'x', 1)",
        "DELETE FROM projects",
        "TRUNCATE events",
        "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (id integer)",
        *(f"SELECT * FROM {table}" for table in PIPELINE_ONLY),
    ],
)
async def test_a_tenant_may_do_no_more_than_it_must(database: Database, project: TestProject, statement: str) -> None:
    async with database.for_project(project.id) as tenant:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await tenant.execute(statement)


@pytest.mark.parametrize("statement", ["DROP TABLE events", "CREATE TABLE mine (id integer)"])
async def test_the_pipeline_changes_no_schema(database: Database, statement: str) -> None:
    async with database.across_projects() as pipeline:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pipeline.execute(statement)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("table", GUARDED)
async def test_row_level_security_binds_the_owner_too(database: Database, table: str) -> None:
    owner = await database.connect(role="boost_owner")
    try:
        flags = await owner.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::text::regclass", table
        )
        assert flags is not None
        assert tuple(flags) == (True, True)
        assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await owner.close()


@pytest.mark.usefixtures("filled")
async def test_without_a_project_a_tenant_sees_nothing(database: Database) -> None:
    tenant: asyncpg.Connection[Any] = await database.connect(role="boost_tenant")
    try:
        for table in GUARDED:
            assert await tenant.fetchval(f"SELECT count(*) FROM {table}") == 0
        await tenant.execute("SET boost.project_id = ''")
        for table in GUARDED:
            assert await tenant.fetchval(f"SELECT count(*) FROM {table}") == 0
    finally:
        await tenant.close()


@pytest.mark.usefixtures("filled")
async def test_a_pooled_connection_forgets_its_project(
    database_url: str, project: TestProject, other_project: TestProject
) -> None:
    one_connection = Database(database_url, pipeline_connections=1, tenant_connections=1)
    await one_connection.open()
    try:
        for mine in (project, other_project, project):
            async with one_connection.for_project(mine.id) as tenant:
                rows = await tenant.fetch("SELECT project_id FROM events")
                assert [row["project_id"] for row in rows] == [mine.id]
        with pytest.raises(RuntimeError):
            async with one_connection.for_project(other_project.id):
                raise RuntimeError
        async with one_connection._pool("boost_tenant").acquire() as left_over:
            assert await left_over.fetch("SELECT project_id FROM events") == []
    finally:
        await one_connection.close()


async def test_each_pool_runs_as_its_role(database: Database, project: TestProject) -> None:
    async with database.for_project(project.id) as tenant:
        assert await tenant.fetchval("SELECT current_user") == "boost_tenant"
    async with database.across_projects() as pipeline:
        assert await pipeline.fetchval("SELECT current_user") == "boost_pipeline"


@pytest.mark.usefixtures("filled")
async def test_no_way_round_through_a_partition(
    database: Database, project: TestProject, other_project: TestProject, filled: dict[UUID, UUID]
) -> None:
    """Policies stand on `events`; its partitions have none, and no grants either."""
    async with database.across_projects() as pipeline:
        partition = await pipeline.fetchval(
            "SELECT tableoid::regclass::text FROM events WHERE id = $1", filled[other_project.id]
        )
    async with database.for_project(project.id) as tenant:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await tenant.fetch(f"SELECT * FROM {partition}")


async def test_the_foreign_key_reaches_through_the_policies(database: Database) -> None:
    """An event of a project that is gone is refused, though no policy lets the owner see projects."""
    async with database.across_projects() as pipeline:
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await pipeline.execute(
                "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
                "VALUES ($1, gen_random_uuid(), 'x', '{}', now())",
                uuid_utils.compat.uuid7(),
            )


async def test_when_every_connection_is_busy_the_answer_is_unavailable(
    database_url: str, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.pool.ACQUIRE_SECONDS", 0.05)
    small = Database(database_url, pipeline_connections=1, tenant_connections=1)
    await small.open()
    try:
        async with small.for_project(project.id):
            with pytest.raises(Unavailable):
                async with small.for_project(project.id):
                    await asyncio.sleep(0)
    finally:
        await small.close()
