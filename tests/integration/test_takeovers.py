"""Who takes a partition over from a dead worker handles it with care, until what was in hand is committed."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents import takeovers as module
from agents.progress import ConsumerProgress
from agents.takeovers import Takeovers
from db.holders import SILENT_SECONDS, let_go_across_projects
from db.pool import Database
from db.workers import heartbeat_across_projects, leave_across_projects

TOPIC = "events.tracking"


@dataclass
class Worker:
    """One worker as far as this matters: its id, its progress, and what it takes."""

    database: Database
    id: UUID
    progress: ConsumerProgress
    takeovers: Takeovers

    async def suspects(self, *partitions: int, offset: int = 0, events: int = 1) -> set[int]:
        taken: list[Any] = [
            SimpleNamespace(topic=TOPIC, partition=number, offset=offset, value=SimpleNamespace(events=[None] * events))
            for number in partitions
        ]
        return {number for _, number in await self.takeovers.suspect(taken)}

    async def beat(self, seconds_ago: float = 0) -> None:
        async with self.database.across_projects() as connection:
            await heartbeat_across_projects(connection, self.id, "host", "http://x", ("agents",), 0)
            await connection.execute(
                "UPDATE workers SET heartbeat_at = now() - make_interval(secs => $2) WHERE id = $1",
                self.id,
                seconds_ago,
            )

    async def leave(self) -> None:
        async with self.database.across_projects() as connection:
            await let_go_across_projects(connection, self.id)
            await leave_across_projects(connection, self.id, 0)


def worker(database: Database) -> Worker:
    worker_id, progress = uuid4(), ConsumerProgress()
    return Worker(database, worker_id, progress, Takeovers(database, worker_id, progress))


@pytest.fixture
async def before(database: Database) -> Worker:
    """A worker that has partitions 0 and 1 in hand."""
    one = worker(database)
    await one.beat()
    assert await one.suspects(0, 1) == set()
    return one


async def test_nothing_is_suspect_of_a_partition_that_nobody_had(database: Database) -> None:
    assert await worker(database).suspects(0, 1, 2) == set()


async def test_what_a_dead_worker_had_is_suspect(database: Database, before: Worker) -> None:
    await before.beat(SILENT_SECONDS + 1)
    assert await worker(database).suspects(0, 2) == {0}


async def test_so_it_is_when_the_dead_one_is_buried(database: Database, before: Worker) -> None:
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM workers")
    assert await worker(database).suspects(0, 1, 2) == {0, 1}


async def test_a_living_worker_merely_handed_it_over(database: Database, before: Worker) -> None:
    await before.beat()
    assert await worker(database).suspects(0, 1) == set()


async def test_one_that_left_in_order_left_nothing(database: Database, before: Worker) -> None:
    await before.leave()
    assert await worker(database).suspects(0, 1) == set()


async def test_a_worker_does_not_suspect_itself(before: Worker) -> None:
    await before.beat(100)
    before.takeovers.forget()
    assert await before.suspects(0, 1) == set()


async def test_suspicion_outlives_those_who_hold_it(database: Database, before: Worker) -> None:
    await before.beat(100)
    second, third = worker(database), worker(database)
    await second.beat()
    assert await second.suspects(0) == {0}
    await second.leave()
    assert await third.suspects(0) == {0}


async def test_it_ends_when_all_that_was_there_is_committed(database: Database, before: Worker) -> None:
    await before.beat(100)
    second = worker(database)
    assert await second.suspects(0) == {0}
    second.progress.observe(TOPIC, 0, committed=10, beginning=0, end=30)
    assert await second.suspects(0, offset=15) == {0}
    second.progress.observe(TOPIC, 0, committed=29, beginning=0, end=500)
    assert await second.suspects(0, offset=200) == {0}
    second.progress.observe(TOPIC, 0, committed=30, beginning=0, end=500)
    assert await second.suspects(0, offset=200) == set()
    third = worker(database)
    assert await third.suspects(1) == {1}
    async with database.across_projects() as connection:
        assert await connection.fetchval("SELECT suspect FROM partition_holders WHERE partition = 0") is False


async def test_behind_a_backlog_it_ends_after_as_many_as_can_have_been_in_hand(
    database: Database, before: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_HAND", 100)
    await before.beat(100)
    second = worker(database)
    second.progress.observe(TOPIC, 0, committed=1, beginning=0, end=1_000_000)
    assert await second.suspects(0, offset=5, events=60) == {0}
    assert await second.suspects(0, offset=6, events=60) == {0}
    assert await second.suspects(0, offset=7, events=60) == {0}  # passed, and not committed yet: nothing is over
    second.progress.observe(TOPIC, 0, committed=7, beginning=0, end=1_000_000)
    assert await second.suspects(0, offset=8) == set()


async def test_another_killer_renews_it(database: Database, before: Worker) -> None:
    await before.beat(100)
    second = worker(database)
    second.progress.observe(TOPIC, 0, committed=10, beginning=0, end=10)
    second.takeovers.renew({(TOPIC, 0)})
    second.progress.observe(TOPIC, 0, committed=10, beginning=0, end=50)
    assert await second.suspects(0) == {0}
