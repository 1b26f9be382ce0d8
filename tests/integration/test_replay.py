"""Stored events run again: counters equal a fold under the new version, whatever settles meanwhile."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from agents.replay import count_replayed, create_replay, scope_of
from agents.replaying import Limits, clear_cancelled
from boost_streams.errors import BoostError, Conflict, NotFound
from db.events import retry_event
from db.pool import Database
from db.projects import delete_project_across_projects
from db.replays import (
    Replay,
    cancel_replay_across_projects,
    get_replay_across_projects,
    take_replay_across_projects,
)
from db.retention import set_retention_across_projects
from db.workers import heartbeat_across_projects
from tests.support.replays import (
    counters,
    fold,
    logins,
    registry,
    replay_through,
    rows_of,
    settle_live,
    store_events,
)

DAY = dt.timedelta(days=1)
TODAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def history(database: Database, project_id: UUID, *, days: int = 3, each: int = 4) -> list[UUID]:
    """Store and settle events of the last days under version 1."""
    ids: list[UUID] = []
    for back in range(days):
        when = TODAY - back * DAY + dt.timedelta(minutes=5)
        for types in ("buy", "refund", "other"):
            ids += await store_events(
                database, project_id, *({"amount": n} for n in range(each)), when=when, types=types
            )
    await settle_live(database, ids, 1)
    return ids


async def begin(database: Database, version: int = 2, handler: str | None = "shop", **options: Any) -> int:
    return await create_replay(
        database, scope_of(registry(version), handler, options.pop("event_type", None), **options)
    )


async def get(database: Database, number: int) -> Replay:
    async with database.across_projects() as connection:
        return await get_replay_across_projects(connection, number)


async def test_history_is_counted_anew_and_questions_read_it_all_at_once(
    database: Database, project: Any, other_project: Any
) -> None:
    for one in (project, other_project):
        await history(database, one.id)
    before = await fold(database, 1)
    assert await counters(database) == before
    scope = scope_of(registry(2), "shop", None)
    assert await count_replayed(database, scope, rate=0) == 48
    number = await begin(database)
    seen = []

    async def look(_: float) -> None:
        state = (await get(database, number)).state
        seen.append((state, await counters(database) == before))

    done = await replay_through(database, number, 2, piece=5, rate=1, sleep=look)
    assert (done.state, done.events_counted, done.events_refused) == ("complete", 48, 0)
    assert await counters(database) == await fold(database, 2)
    assert await counters(database) != before
    assert seen
    assert set(seen) == {("running", True)}


async def test_old_counters_go_and_others_stay(database: Database, project: Any) -> None:
    await history(database, project.id)
    await replay_through(database, await begin(database), 2)
    assert await counters(database, table="rollups") == await fold(database, 2)
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT DISTINCT handler, version, cutover, replayed FROM rollups")
        left = await connection.fetchval("SELECT count(*) FROM replay_projects")
    assert {tuple(row) for row in rows} == {("shop", 2, 1, True), ("default", 1, 0, False), (None, None, 0, False)}
    assert left == 0


async def test_what_settles_meanwhile_counts_once_however_old_it_is(database: Database, project: Any) -> None:
    """Pending events with ids before and behind the position, new ones, and those of workers of the version before."""
    early = await store_events(database, project.id, *({"amount": n} for n in range(10)))
    await history(database, project.id)
    late = await store_events(database, project.id, *({"amount": n} for n in range(10)))
    number = await begin(database)
    old_workers: list[UUID] = []

    async def meanwhile(_: float) -> None:
        for waiting in (early, late):
            if waiting:
                await settle_live(database, [waiting.pop()], 2)
        await settle_live(database, await store_events(database, project.id, {"amount": 7}), 2)
        by_old = await store_events(database, project.id, {"amount": 9})
        await settle_live(database, by_old, 1)
        old_workers.extend(by_old)

    await replay_through(database, number, 2, piece=3, rate=1, sleep=meanwhile)
    await settle_live(database, early + late, 2)
    assert len(old_workers) > 10
    assert await counters(database) == await fold(database, 2, but=dict.fromkeys(old_workers, 1))


async def test_a_settlement_under_way_at_the_cut_over_is_waited_for(database: Database, project: Any) -> None:
    ids = await store_events(database, project.id, {"amount": 3}, {"amount": 4})
    blocker = await database.connect(role="boost_pipeline")
    transaction = blocker.transaction()
    await transaction.start()
    # It holds the batch: a settlement has moved its events, read the cut-over, and waits.
    await blocker.execute("SELECT * FROM event_batches FOR UPDATE")
    settling = asyncio.create_task(settle_live(database, ids, 1))
    async with database.across_projects() as connection, asyncio.timeout(10):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.02)
    number = await begin(database)
    replaying = asyncio.create_task(replay_through(database, number, 2))
    await asyncio.sleep(0.5)
    assert (await get(database, number)).state == "waiting"
    assert not replaying.done()
    await transaction.rollback()
    await blocker.close()
    await settling
    assert (await replaying).events_counted == 2
    assert await counters(database) == await fold(database, 2)


async def test_only_whole_days_within_the_bounds(database: Database, project: Any) -> None:
    await history(database, project.id, days=6)
    number = await begin(database, since=TODAY - 4 * DAY, until=TODAY - DAY)
    assert (await replay_through(database, number, 2)).events_counted == 24
    inside = {row["id"] for row in await rows_of(database) if TODAY - 4 * DAY <= row["occurred_at"] < TODAY - DAY}
    outside = {row["id"]: 1 for row in await rows_of(database) if row["id"] not in inside}
    assert await counters(database) == await fold(database, 2, but=outside)


async def test_a_day_that_some_clocks_were_ahead_into(database: Database, project: Any) -> None:
    """Its first events were received, and have their ids, on the day before."""
    early = await store_events(database, project.id, {"amount": 3}, when=TODAY + DAY + dt.timedelta(minutes=1))
    await settle_live(database, early, 1)
    assert (await replay_through(database, await begin(database, since=TODAY + DAY), 2)).events_counted == 1
    assert await counters(database) == await fold(database, 2)


async def test_one_event_type(database: Database, project: Any) -> None:
    await history(database, project.id)
    await replay_through(database, await begin(database, handler=None, event_type="refund"), 2)
    others = {row["id"]: 1 for row in await rows_of(database) if row["event_type"] != "refund"}
    assert await counters(database) == await fold(database, 2, but=others)


async def test_a_type_that_has_a_handler_of_its_own_now(database: Database, project: Any) -> None:
    """It was counted by the default handler; those counters go, and those of types nobody claims stay."""
    ids = [id for types in ("buy", "other") for id in await store_events(database, project.id, {}, {}, types=types)]
    await settle_live(database, ids, None)
    assert {key[3] for key in await counters(database)} == {("buy",), ("other",)}
    await replay_through(database, await begin(database, 1), 1)
    assert await counters(database) == await fold(database, 1)
    assert {(key[1], key[3]) for key in await counters(database)} == {("sold", ("buy",)), ("event_types", ("other",))}


async def test_the_default_handler_is_replayed_for_what_nobody_claims(database: Database, project: Any) -> None:
    await history(database, project.id)
    number = await begin(database, 1, handler="default")
    assert (await replay_through(database, number, 1)).events_counted == 12
    assert await counters(database) == await fold(database, 1)


async def test_again_with_a_third_version_over_a_part(database: Database, project: Any) -> None:
    await history(database, project.id)
    await replay_through(database, await begin(database), 2)
    await settle_live(database, await store_events(database, project.id, {"amount": 5}), 2)
    await replay_through(database, await begin(database, 3, since=TODAY - DAY, until=TODAY), 3)
    inside = {row["id"]: 3 for row in await rows_of(database) if TODAY - DAY <= row["occurred_at"] < TODAY}
    assert await counters(database) == await fold(database, 2, but=inside)


async def test_failed_events_count_when_they_are_retried(database: Database, project: Any) -> None:
    ids = await store_events(database, project.id, {"how": "fail"}, {"amount": 2})
    await settle_live(database, ids, 1)
    number = await begin(database)
    assert (await replay_through(database, number, 2)).events_counted == 1
    async with database.for_project(project.id) as connection:
        await retry_event(connection, project.id, ids[0])
        await connection.execute("RESET ROLE")
    async with database.across_projects() as connection:
        await connection.execute("UPDATE events SET payload = '{\"amount\": 40}' WHERE id = $1", ids[0])
    await settle_live(database, ids[:1], 2)
    assert await counters(database) == await fold(database, 2)
    await replay_through(database, await begin(database, 3), 3)
    assert await counters(database) == await fold(database, 3)


async def test_traits_of_a_new_version_hold_and_logins_are_not_counted_again(database: Database, project: Any) -> None:
    await history(database, project.id, days=1)
    before = await logins(database)
    await replay_through(database, await begin(database), 2)
    assert await logins(database) == before
    async with database.across_projects() as connection:
        assert await connection.fetchval("SELECT traits ->> 'seen by' FROM end_users") == "2"


async def test_refused_events_are_told_and_stay_processed(database: Database, project: Any) -> None:
    ids = await store_events(database, project.id, {"how": "fail later"}, *({"amount": n} for n in range(5)))
    await settle_live(database, ids, 1)
    done = await replay_through(database, await begin(database), 2)
    assert (done.events_counted, done.events_refused) == (5, 1)
    assert {row["status"] for row in await rows_of(database)} == {"processed"}
    assert await counters(database) == await fold(database, 2)


async def test_a_handler_that_refuses_most_stops_before_the_switch(database: Database, project: Any) -> None:
    ids = await store_events(database, project.id, *[{"how": "fail later"}] * 8, {"amount": 1})
    await settle_live(database, ids, 1)
    number = await begin(database)
    with pytest.raises(BoostError, match="refuses"):
        await replay_through(database, number, 2, piece=2, limits=Limits(0.5, 4))
    stopped = await get(database, number)
    assert stopped.state == "running"
    assert "refuses" in (stopped.problem or "")
    assert await counters(database) == await fold(database, 1)
    done = await replay_through(database, number, 2, limits=Limits(1.0, 4))
    assert (done.events_counted, done.events_refused, done.problem) == (1, 8, None)
    assert await counters(database) == await fold(database, 2)


async def test_an_effect_that_cannot_be_stored_costs_its_own_event_only(database: Database, project: Any) -> None:
    payloads = [{"how": "unstorable"} if n in (3, 4, 11) else {"amount": n} for n in range(20)]
    await settle_live(database, await store_events(database, project.id, *payloads), 1)
    done = await replay_through(database, await begin(database), 2)
    assert (done.events_counted, done.events_refused, done.events_read) == (17, 3, 20)
    assert await counters(database) == await fold(database, 2)


async def test_a_handler_that_says_try_again_is_asked_again_and_then_left(database: Database, project: Any) -> None:
    await settle_live(database, await store_events(database, project.id, {"how": "away"}, {"amount": 1}), 1)
    number = await begin(database)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.raises(BoostError, match=r"try again.*resume"):
        await replay_through(database, number, 2, sleep=sleep)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert (await get(database, number)).events_counted == 0
    async with database.across_projects() as connection:
        await connection.execute("UPDATE events SET payload = '{}'")
    await replay_through(database, number, 2)
    assert await counters(database) == await fold(database, 2)


async def test_two_processes_do_not_work_on_one_replay(database: Database, project: Any) -> None:
    await history(database, project.id)
    number = await begin(database)
    refusals = []

    async def second(_: float) -> None:
        with pytest.raises(Conflict, match="another process"):
            await replay_through(database, number, 2)
        refusals.append(True)

    await replay_through(database, number, 2, piece=20, rate=1, sleep=second)
    assert refusals
    with pytest.raises(Conflict, match="complete"):
        await replay_through(database, number, 2)
    with pytest.raises(NotFound):
        await replay_through(database, 77, 2)


async def test_a_runner_that_was_replaced_counts_nothing_more(database: Database, project: Any) -> None:
    """As one whose place was lost with its connection, or that was stopped for long."""
    await history(database, project.id)
    number = await begin(database)

    async def replaced(_: float) -> None:
        async with database.across_projects() as connection:
            await take_replay_across_projects(connection, number, uuid4())

    with pytest.raises(Conflict, match="somebody else"):
        await replay_through(database, number, 2, piece=5, rate=1, sleep=replaced)
    assert 0 < (await get(database, number)).events_read <= 10
    await replay_through(database, number, 2)
    assert await counters(database) == await fold(database, 2)


async def test_cancelled(database: Database, project: Any) -> None:
    await history(database, project.id)
    number = await begin(database)

    async def cancel(_: float) -> None:
        async with database.across_projects() as connection:
            await cancel_replay_across_projects(connection, number)

    with pytest.raises(Conflict, match="cancelled"):
        await replay_through(database, number, 2, piece=5, rate=1, sleep=cancel)
    assert (await get(database, number)).events_counted > 0
    assert await counters(database) == await fold(database, 1)
    await clear_cancelled(database, number)
    assert await counters(database, table="rollups") == await fold(database, 1)
    await replay_through(database, await begin(database), 2)
    assert await counters(database) == await fold(database, 2)
    with pytest.raises(Conflict, match="questions read"):
        async with database.across_projects() as connection:
            await cancel_replay_across_projects(connection, 2)


async def test_workers_with_another_version_stand_in_the_way(database: Database, project: Any) -> None:
    await history(database, project.id)
    worker = UUID(int=9)
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, worker, "host", "http://old", ("agents",), 0, {"shop": 1})
        await heartbeat_across_projects(connection, UUID(int=8), "host", "http://web", ("web",), 0)
    with pytest.raises(Conflict, match=r"http://old runs version 1: deploy first"):
        await begin(database)
    async with database.across_projects() as connection:
        await connection.execute("UPDATE workers SET handlers = NULL WHERE id = $1", worker)
    with pytest.raises(Conflict, match="does not know it"):
        await begin(database)
    async with database.across_projects() as connection:
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute'")
    number = await begin(database)
    with pytest.raises(Conflict, match="is of version 2 of shop, not of 3"):
        await replay_through(database, number, 3)


async def test_a_project_that_is_deleted_meanwhile(database: Database, project: Any, other_project: Any) -> None:
    for one in (project, other_project):
        await history(database, one.id)
    number = await begin(database)

    async def delete(_: float) -> None:
        async with database.across_projects() as connection:
            if await connection.fetchval("SELECT 1 FROM projects WHERE id = $1", project.id):
                await delete_project_across_projects(connection, project.id)

    done = await replay_through(database, number, 2, piece=5, rate=1, sleep=delete)
    assert done.state == "complete"
    assert {row["project_id"] for row in await rows_of(database)} == {other_project.id}
    assert await counters(database) == await fold(database, 2)


async def test_days_that_are_deleted_in_part_keep_their_counters(
    database: Database, project: Any, other_project: Any
) -> None:
    for one in (project, other_project):
        await history(database, one.id, days=8)
    async with database.across_projects() as connection:
        await set_retention_across_projects(connection, project.id, 6)
    await replay_through(database, await begin(database), 2)
    kept = {
        row["id"]: 1
        for row in await rows_of(database)
        if row["project_id"] == project.id and row["occurred_at"] < TODAY - 3 * DAY
    }
    assert kept
    assert await counters(database) == await fold(database, 2, but=kept)


async def test_one_project_alone(database: Database, project: Any, other_project: Any) -> None:
    for one in (project, other_project):
        await history(database, one.id)
    await replay_through(database, await begin(database, project_id=project.id), 2)
    others = {row["id"]: 1 for row in await rows_of(database) if row["project_id"] == other_project.id}
    assert await counters(database) == await fold(database, 2, but=others)


async def test_a_tenant_reads_its_own_counters_and_no_replays(
    database: Database, project: Any, other_project: Any
) -> None:
    for one in (project, other_project):
        await history(database, one.id)
    await replay_through(database, await begin(database), 2)
    for table in ("current_rollups", "rollup_switches"):
        async with database.for_project(project.id) as tenant:
            found = await tenant.fetch(f"SELECT DISTINCT project_id FROM {table}")
            assert [row["project_id"] for row in found] == [project.id]
    for table in ("replays", "replay_projects", "cutovers"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.for_project(project.id) as tenant:
                await tenant.fetch(f"SELECT * FROM {table}")


async def test_a_worker_of_the_release_before_is_still_counted_after_a_switch(database: Database, project: Any) -> None:
    """What it calls counts on the far side of the cut-over, though it knows none."""
    [event_id] = await store_events(database, project.id, {"url": "/a"}, types="page_view")
    await settle_live(database, [event_id], 1)
    number = await begin(database, 1, handler="tracking")
    await replay_through(database, number, 1)
    old = (
        "SELECT boost_add_rollups(ARRAY[$1::uuid], ARRAY['page_views'], ARRAY[$2::timestamptz], "
        "ARRAY[gen_random_uuid()], ARRAY['{\"\",/a}'], ARRAY[5::bigint], ARRAY[NULL::numeric])"
    )
    async with database.across_projects() as connection:
        await connection.execute(old, project.id, TODAY)
    assert (await counters(database))[project.id, "page_views", TODAY, ("", "/a")][0] == 6
