"""A replay cut at each of its statements, and at random beside live settling, counts each event once."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from agents.replay import create_replay, scope_of
from agents.replaying import clear_cancelled
from boost_streams.errors import Conflict, Unavailable
from db.pool import Database
from db.replays import cancel_replay_across_projects, get_replay_across_projects
from tests.support.projects import make_project
from tests.support.replays import counters, fold, logins, registry, replay_through, settle_live, store_events
from tests.support.scissors import Cut, CuttableDatabase, ProcessDied

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
async def cuttable(database_url: str) -> AsyncIterator[CuttableDatabase]:
    database = CuttableDatabase(database_url)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def through_cut(database: CuttableDatabase, number: int, version: int, cut: Cut) -> bool:
    """Run a replay with a cut, and again until it is complete; tell whether the cut came."""
    database.scissors.arm(cut)
    try:
        await replay_through(database, number, version, piece=4)
    except (ProcessDied, Unavailable):
        database.scissors.arm(None)
    came = database.scissors.cut is None
    database.scissors.arm(None)
    if (await state(database, number)) != "complete":
        await replay_through(database, number, version, piece=4)
    return came


async def state(database: Database, number: int) -> str:
    async with database.across_projects() as connection:
        return (await get_replay_across_projects(connection, number)).state


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("after", [True, False])
async def test_cut_at_each_statement(
    cuttable: CuttableDatabase, database: Database, *, after: bool, dies: bool
) -> None:
    for name in ("one", "two"):
        project = await make_project(database, name)
        ids = await store_events(database, project.id, *({"amount": n} for n in range(6)), {"how": "fail later"})
        await settle_live(database, ids, 1)
    before = await logins(database)
    for statement in range(200):
        version = statement + 2
        number = await create_replay(cuttable, scope_of(registry(version), "shop", None))
        came = await through_cut(cuttable, number, version, Cut(statement, after, dies))
        assert await state(database, number) == "complete"
        assert await counters(database) == await fold(database, version), f"cut at statement {statement}"
        assert await counters(database, table="rollups") == await fold(database, version)
        assert await logins(database) == before
        if not came:
            break
    else:
        raise AssertionError("a replay of 14 events has more than 200 statements")
    assert statement > 30, "the cuts reach all of it"


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_cuts_settlements_and_replays(
    cuttable: CuttableDatabase, database: Database, seed: int
) -> None:
    """Live settling (by whichever version is deployed), replays, deaths and cancellations, as a seed has it."""
    chance = random.Random(seed)
    project = await make_project(database)
    counted_by: dict[UUID, int] = {}
    waiting: list[UUID] = []
    version = 1

    async def live(_: float = 0.0) -> None:
        when = NOW - dt.timedelta(days=chance.randrange(3))
        types = chance.choice(("buy", "refund", "other"))
        waiting.extend(await store_events(database, project.id, {"amount": 1}, {"amount": 2}, when=when, types=types))
        chance.shuffle(waiting)
        settled = [waiting.pop() for _ in range(min(len(waiting), chance.randrange(4)))]
        await settle_live(database, settled, version)
        counted_by.update(dict.fromkeys(settled, version))

    for _ in range(8):
        for _ in range(chance.randrange(1, 4)):
            await live()
        version += 1
        before = dict(counted_by)
        number = await create_replay(database, scope_of(registry(version), "shop", None))
        give_up = chance.random() < 0.25
        while await state(database, number) in ("waiting", "running", "switched"):
            cut = Cut(chance.randrange(60), chance.random() < 0.5, chance.random() < 0.5)
            cuttable.scissors.arm(cut if chance.random() < 0.8 else None)
            try:
                await replay_through(cuttable, number, version, piece=3, rate=1, sleep=live)
            except (ProcessDied, Unavailable, Conflict):
                cuttable.scissors.arm(None)
            if give_up and await state(database, number) in ("waiting", "running"):
                async with database.across_projects() as connection:
                    await cancel_replay_across_projects(connection, number)
                await clear_cancelled(database, number)
            await live()
        if await state(database, number) == "complete":
            counted_by.update(dict.fromkeys(before, version))
        assert await counters(database) == await fold(database, version, but=counted_by), f"seed {seed}"
    await settle_live(database, waiting, version)
    assert await counters(database) == await fold(database, version, but=counted_by)


async def test_settling_at_full_speed_beside_a_replay(database: Database, project: Any) -> None:
    """Workers settle all the time, through the cut-over and the switch; nothing is counted twice or not at all."""
    ids = await store_events(database, project.id, *({"amount": n} for n in range(300)))
    await settle_live(database, ids, 1)
    stop = asyncio.Event()
    settled = 0

    async def worker() -> None:
        nonlocal settled
        while not stop.is_set():
            some = await store_events(database, project.id, *({"amount": n} for n in range(5)))
            await settle_live(database, some, 2)
            settled += len(some)

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    try:
        number = await create_replay(database, scope_of(registry(2), "shop", None))
        done = await replay_through(database, number, 2, piece=20, rate=600)
        async with asyncio.timeout(20):
            while settled < 100:
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await asyncio.gather(*workers)
    assert done.events_counted >= 300
    assert await counters(database) == await fold(database, 2)
