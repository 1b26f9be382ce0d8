"""What settlements count is read at once, folded a little later, and counts once whatever happens in between."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from db.pool import Database
from db.projects import delete_project_across_projects
from db.rollups import RollupKey, Source, add_across_projects, fold_across_projects
from tests.support.projects import TestProject

NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
VIEWS = Source("page_view", "tracking", 1)
_READ = "SELECT project_id, metric, bucket_start, dimensions, count, amount FROM {} WHERE count <> 0 OR amount <> 0"


def key(
    project_id: UUID, dimension: str = "/a", source: Source | None = VIEWS, metric: str = "page_views"
) -> RollupKey:
    return RollupKey(project_id, metric, NOON, (dimension,), source)


async def add(database: Database, *keys: RollupKey, count: int = 1, amount: str = "0", cutover: int = 0) -> None:
    async with database.across_projects() as connection:
        await add_across_projects(connection, dict.fromkeys(keys, (count, Decimal(amount))), cutover)


async def fold(database: Database, *, at_once: bool = True, most: int = 500) -> int | None:
    async with database.across_projects() as connection:
        return await fold_across_projects(connection, at_once=at_once, most=most)


async def read(database: Database, table: str = "current_rollups") -> dict[tuple[Any, ...], tuple[int, Decimal]]:
    async with database.across_projects() as connection:
        rows = await connection.fetch(_READ.format(table))
    return {
        (row["project_id"], row["metric"], row["bucket_start"], *row["dimensions"]): (row["count"], row["amount"])
        for row in rows
    }


async def value(database: Database, sql: str) -> Any:
    async with database.across_projects() as connection:
        return await connection.fetchval(sql)


async def folded_to(database: Database) -> int:
    number: int = await value(database, "SELECT folded_to FROM rollup_folds")
    return number


async def test_read_before_it_is_folded_and_after(database: Database, project: TestProject) -> None:
    await add(database, key(project.id), key(project.id, "/b"), count=2, amount="1.5")
    await add(database, key(project.id), count=3)
    expected = {
        (project.id, "page_views", NOON, "/a"): (5, Decimal("1.5")),
        (project.id, "page_views", NOON, "/b"): (2, Decimal("1.5")),
    }
    assert await read(database) == expected
    assert await read(database, "rollups") == {}
    assert await fold(database) == 2
    assert await read(database) == expected
    assert await read(database, "rollups") == expected
    assert await value(database, "SELECT count(*) FROM rollup_deltas") == 0


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_counting_and_folding(database: Database, project: TestProject, seed: int) -> None:
    chance = random.Random(seed)
    expected: dict[tuple[Any, ...], tuple[int, Decimal]] = {}
    for _ in range(40):
        if chance.random() < 0.4:
            await fold(database, most=chance.randrange(1, 4))
            continue
        page, count, source = chance.choice("abc"), chance.randrange(-2, 5), chance.choice((VIEWS, None))
        await add(database, key(project.id, page, source), count=count, amount="0.5", cutover=chance.randrange(3))
        name = (project.id, "page_views", NOON, page)
        before, amount = expected.get(name, (0, Decimal(0)))
        expected[name] = (before + count, amount + Decimal("0.5"))
        assert await read(database) == expected
    await fold(database)
    assert await read(database) == expected
    assert await value(database, "SELECT count(*) FROM rollup_deltas") == 0


async def test_a_settlement_under_way_is_not_passed_by(database: Database, project: TestProject) -> None:
    """One has drawn its number and commits late: what came after it is folded, and the reading goes on before it."""
    slow = await database.connect(role="boost_pipeline")
    try:
        transaction = slow.transaction()
        await transaction.start()
        await add_across_projects(slow, {key(project.id): (1, Decimal(0))}, 0)
        for _ in range(5):
            await add(database, key(project.id))
            assert await fold(database) == 1
        before = await folded_to(database)
        await transaction.commit()
        assert (await read(database))[project.id, "page_views", NOON, "/a"][0] == 6
        assert await fold(database) == 1
    finally:
        await slow.close()
    assert await value(database, "SELECT count(*) FROM rollup_deltas") == 0
    assert (await read(database))[project.id, "page_views", NOON, "/a"][0] == 6
    await fold(database)
    assert await folded_to(database) > before


async def test_what_went_is_not_looked_at_again(database: Database, project: TestProject) -> None:
    """While a snapshot is held open, deleted rows stay; folding and questions begin behind them."""
    holder = await database.connect(role="boost_pipeline")
    try:
        transaction = holder.transaction(isolation="repeatable_read")
        await transaction.start()
        await holder.fetchval("SELECT count(*) FROM rollup_deltas")
        for _ in range(30):
            await add(database, key(project.id))
            await fold(database)
        newest = await value(database, "SELECT last_value FROM rollup_deltas_id_seq")
        assert await folded_to(database) >= newest - 2
        assert (await read(database))[project.id, "page_views", NOON, "/a"][0] == 30
    finally:
        await holder.close()


async def test_it_is_due_a_second_later_and_one_does_it(database: Database, project: TestProject) -> None:
    await add(database, key(project.id))
    assert await fold(database, at_once=False) == 1
    await add(database, key(project.id))
    assert await fold(database, at_once=False) is None
    other = await database.connect(role="boost_pipeline")
    try:
        transaction = other.transaction()
        await transaction.start()
        assert await other.fetchval("SELECT boost_fold_rollups(10, true)") == 1
        assert await fold(database) is None
        await transaction.rollback()
    finally:
        await other.close()
    assert await fold(database) == 1
    assert (await read(database, "rollups"))[project.id, "page_views", NOON, "/a"][0] == 2


async def test_a_clock_that_was_ahead_holds_nothing_up(database: Database, project: TestProject) -> None:
    await add(database, key(project.id))
    await value(database, "UPDATE rollup_folds SET due_at = now() + interval '1 hour' RETURNING 1")
    assert await fold(database, at_once=False) == 1


async def test_a_copy_of_a_server_folds_though_its_numbers_begin_anew(database: Database, project: TestProject) -> None:
    """A dump keeps no numbers of transactions, a logical copy no sequences."""
    await add(database, key(project.id))
    await fold(database)
    await value(
        database, "UPDATE rollup_folds SET folded_to = 1000000, next_to = 1000000, next_xid = 1 << 60 RETURNING 1"
    )
    await add(database, key(project.id))
    assert await fold(database) == 1
    await add(database, key(project.id))
    assert (await read(database))[project.id, "page_views", NOON, "/a"][0] == 3
    assert await fold(database) == 1
    await fold(database)
    assert 0 < await folded_to(database) < 1000


async def test_counters_of_a_deleted_project_are_passed_by(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    await add(database, key(project.id), key(other_project.id))
    async with database.across_projects() as connection:
        await delete_project_across_projects(connection, project.id)
    assert await fold(database) == 2
    assert {name[0] for name in await read(database)} == {other_project.id}


async def test_a_tenant_reads_its_own_before_they_are_folded(
    database: Database, project: TestProject, other_project: TestProject
) -> None:
    await add(database, key(project.id), key(other_project.id))
    async with database.for_project(project.id) as tenant:
        assert [row["project_id"] for row in await tenant.fetch("SELECT * FROM current_rollups")] == [project.id]


@pytest.mark.parametrize(
    ("metric", "amount"), [("m" * 3000, "0"), ("revenue", "1e1001"), ("revenue", "-1e1001"), ("revenue", "NaN")]
)
async def test_what_could_not_be_folded_is_refused(
    database: Database, project: TestProject, metric: str, amount: str
) -> None:
    with pytest.raises(asyncpg.PostgresError) as refused:
        await add(database, key(project.id, metric=metric), amount=amount)
    assert refused.value.sqlstate == "54000"
    assert await value(database, "SELECT count(*) FROM rollup_deltas") == 0


@pytest.mark.parametrize("times", [1, -1])
async def test_a_count_stays_at_the_limit_of_its_type(database: Database, project: TestProject, times: int) -> None:
    for _ in range(2):
        for _ in range(2):
            await add(database, key(project.id), count=times * (2**63 - 1))
        limit = 2**63 - 1 if times > 0 else -(2**63)
        assert (await read(database))[project.id, "page_views", NOON, "/a"][0] == limit
        assert await fold(database) == 2
        assert (await read(database, "rollups"))[project.id, "page_views", NOON, "/a"][0] == limit
