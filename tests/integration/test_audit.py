"""The audit reports what nothing accounts for, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from boost_streams.event_id import batch_of, bounds_of_day
from db import audit
from db.audit import BatchCount, Chunk, UnaccountedEvent
from db.events import retry_event
from db.pool import Database
from tests.support.stored_events import settle, store


async def unaccounted(database: Database, blocks_at_a_time: int = 1) -> list[UnaccountedEvent]:
    async with database.across_projects() as connection:
        chunks = await audit.chunks_across_projects(connection, blocks_at_a_time)
        return [
            found for chunk in chunks for found in await audit.unaccounted_events_across_projects(connection, chunk)
        ]


async def miscounted(database: Database) -> list[BatchCount]:
    return [found async for found in audit.miscounted_batches_across_projects(database)]


async def run(database: Database, statement: str, *arguments: Any) -> None:
    async with database.across_projects() as connection:
        await connection.execute(statement, *arguments)


async def test_whatever_a_healthy_database_holds_is_accounted_for(database: Database, project: Any) -> None:
    await store(database, project.id, "click", "click")
    ids = await store(database, project.id, *["click"] * 5)
    await settle(database, project.id, ids[:2], "processed")
    await settle(database, project.id, ids[2:4], "failed")
    await settle(database, project.id, ids[4:], "pending")
    async with database.for_project(project.id) as connection:
        await retry_event(connection, project.id, ids[3])
    assert await unaccounted(database) == []
    assert await miscounted(database) == []


async def test_event_without_its_batch_is_reported(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "click", "click")
    await store(database, project.id, "click")
    await settle(database, project.id, ids[:1], "processed")
    await run(database, "DELETE FROM event_batches WHERE id = $1", batch_of(ids[0]))
    assert await unaccounted(database) == [UnaccountedEvent(project.id, lost, 0) for lost in ids[1:]]


async def test_event_without_its_retry_is_reported(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "click")
    await settle(database, project.id, ids, "pending")
    await run(database, "DELETE FROM event_retries WHERE event_id = $1", ids[0])
    await run(database, "UPDATE event_retries SET attempt = 7 WHERE event_id = $1", ids[1])
    assert await unaccounted(database) == [UnaccountedEvent(project.id, lost, 1) for lost in ids]


async def test_every_block_of_every_partition_is_read(database: Database, project: Any, other_project: Any) -> None:
    lost = []
    for owner in (project, other_project):
        for _ in range(3):
            lost += await store(database, owner.id, *["click"] * 40, payload=b'{"x": "%s"}' % (b"y" * 500))
    await run(database, "DELETE FROM event_batches")
    for blocks_at_a_time in (1, 3, audit.BLOCKS_AT_A_TIME):
        found = await unaccounted(database, blocks_at_a_time)
        assert sorted(one.event_id for one in found) == sorted(lost)


async def test_chunks_cover_partitions_without_a_gap(database: Database, project: Any) -> None:
    await store(database, project.id, *["click"] * 100)
    async with database.across_projects() as connection:
        [whole] = await audit.chunks_across_projects(connection)
        assert whole.first == 0
        pieces = await audit.chunks_across_projects(connection, 2)
    edges = [(piece.first, piece.end) for piece in pieces]
    assert edges == [(n, min(n + 2, whole.end)) for n in range(0, whole.end, 2)]
    assert len(pieces) > 1
    assert {piece.day for piece in pieces} == {whole.day}


async def test_batch_whose_count_is_wrong_is_reported(database: Database, project: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(audit, "BATCHES_AT_A_TIME", 2)
    batches = [batch_of((await store(database, project.id, "click", "click"))[0]) for _ in range(5)]
    await run(database, "UPDATE event_batches SET unsettled = 1 WHERE id = $1", batches[1])
    await run(database, "UPDATE event_batches SET unsettled = 3 WHERE id = $1", batches[4])
    assert await miscounted(database) == [BatchCount(batches[1], 1, 2), BatchCount(batches[4], 3, 2)]


async def test_deleted_projects_batch_counts_too_many(database: Database, project: Any, other_project: Any) -> None:
    ids = await store(database, project.id, "click")
    await store(database, other_project.id, "click")
    await run(database, "DELETE FROM projects WHERE id = $1", project.id)
    assert await unaccounted(database) == []
    assert await miscounted(database) == [BatchCount(batch_of(ids[0]), 1, 0)]


async def test_work_under_way_is_never_reported(database: Database, project: Any) -> None:
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            ids = await store(database, project.id, "click", "click")
            await settle(database, project.id, ids[:1], "pending")
            await settle(database, project.id, ids, "processed")
            await settle(database, project.id, ids[:1], "processed", attempt=1)

    worker = asyncio.create_task(work())
    for _ in range(40):
        assert await unaccounted(database, 10) == []
        assert await miscounted(database) == []
    stop.set()
    await worker


async def test_chunk_is_read_by_its_blocks(database: Database, project: Any) -> None:
    await store(database, project.id, *["click"] * 100)
    await run(database, "DELETE FROM event_batches")
    async with database.across_projects() as connection:
        [whole] = await audit.chunks_across_projects(connection)
        found = await audit.unaccounted_events_across_projects(connection, Chunk(whole.day, 0, 1))
        low, high = bounds_of_day(whole.day)
        kinds = "(uuid, uuid, tid, tid)"
        await connection.execute(f"PREPARE audit {kinds} AS {audit._UNACCOUNTED}")
        plan = await connection.fetch(f"EXPLAIN EXECUTE audit ('{low}', '{high}', '(0,0)', '(1,0)')")
        await connection.execute("DEALLOCATE audit")
    assert 0 < len(found) < 100
    text = "\n".join(row[0] for row in plan)
    assert "Tid Range Scan" in text
    assert "Seq Scan" not in text
