"""Who takes a partition over from a dead worker handles it with care, until what was in hand is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """One worker as far as this matters: its id, its progress, and its partitions."""

    database: Database
    assigned: tuple[int, ...] = (0, 1)
    id: UUID = field(default_factory=uuid4)
    progress: ConsumerProgress = field(default_factory=ConsumerProgress)

    def __post_init__(self) -> None:
        partitions = lambda: [(TOPIC, number) for number in self.assigned]  # noqa: E731
        self.takeovers = Takeovers(self.database, self.id, self.progress, partitions)

    async def careful(self, partition: int = 0, offset: int = 0, events: int = 1) -> bool:
        """Take a message of so many events."""
        value = SimpleNamespace(events=[None] * events)
        taken: list[Any] = [SimpleNamespace(topic=TOPIC, partition=partition, offset=offset, value=value)]
        return await self.takeovers.careful(taken)

    async def beat(self, seconds_ago: float = 0) -> None:
        async with self.database.across_projects() as connection:
            await heartbeat_across_projects(connection, self.id, "host", "http://x", ("agents",), 0)
            await connection.execute(
                "UPDATE workers SET heartbeat_at = now() - make_interval(secs => $1) WHERE id = $2",
                seconds_ago,
                self.id,
            )

    async def leave(self) -> None:
        async with self.database.across_projects() as connection:
            await let_go_across_projects(connection, self.id)
            await leave_across_projects(connection, self.id, 0)

    def all_is_committed(self) -> None:
        """Let the broker say so of every partition."""
        for number in self.assigned:
            self.progress.observe(TOPIC, number, committed=10, beginning=0, end=10)


@pytest.fixture
async def before(database: Database) -> Worker:
    """A worker that has partitions 0 and 1 in hand."""
    one = Worker(database)
    await one.beat()
    assert not await one.careful()
    return one


async def test_nothing_is_suspect_of_a_partition_that_nobody_had(database: Database) -> None:
    assert not await Worker(database).careful()


async def test_what_a_dead_worker_had_is_suspect(database: Database, before: Worker) -> None:
    await before.beat(SILENT_SECONDS + 1)
    assert await Worker(database).careful()


async def test_so_it_is_when_the_dead_one_is_buried(database: Database, before: Worker) -> None:
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM workers")
    assert await Worker(database).careful()


async def test_so_is_all_else_of_its_topic(database: Database, before: Worker) -> None:
    """Partition 1 had no message yet when its worker died, and 2 was nobody's: what is in hand may be of either."""
    await before.beat(100)
    second = Worker(database, assigned=(1, 2))
    assert await second.careful(2)
    assert await second.careful(1)


async def test_who_took_over_nothing_is_not_careful(database: Database, before: Worker) -> None:
    await before.beat(100)
    assert not await Worker(database, assigned=(2, 3)).careful(2)


async def test_a_living_worker_merely_handed_it_over(database: Database, before: Worker) -> None:
    await before.beat()
    assert not await Worker(database).careful()


async def test_one_that_left_in_order_left_nothing(database: Database, before: Worker) -> None:
    await before.leave()
    assert not await Worker(database).careful()


async def test_a_worker_does_not_suspect_itself(before: Worker) -> None:
    await before.beat(100)
    before.takeovers.forget()
    assert not await before.careful()


async def test_suspicion_outlives_those_who_hold_it(database: Database, before: Worker) -> None:
    await before.beat(100)
    second, third = Worker(database), Worker(database)
    await second.beat()
    assert await second.careful()
    assert await third.careful()  # in a rebalance, from one that lives
    await third.leave()
    assert await Worker(database).careful()


async def test_it_ends_when_all_that_was_there_is_committed(database: Database, before: Worker) -> None:
    await before.beat(100)
    second = Worker(database)
    assert await second.careful()
    second.progress.observe(TOPIC, 0, committed=10, beginning=0, end=10)
    assert await second.careful()  # of partition 1 nobody knows yet
    second.all_is_committed()
    assert not await second.careful()
    async with database.across_projects() as connection:
        assert not await connection.fetchval("SELECT bool_or(suspect) FROM partition_holders")


async def test_until_then_it_ends_for_nothing(database: Database, before: Worker) -> None:
    await before.beat(100)
    second = Worker(database)
    assert await second.careful()
    second.progress.observe(TOPIC, 0, committed=10, beginning=0, end=30)
    second.progress.observe(TOPIC, 1, committed=None, beginning=0, end=0)
    assert await second.careful(0, offset=15)
    second.progress.observe(TOPIC, 0, committed=29, beginning=0, end=500)
    assert await second.careful(0, offset=200)
    second.progress.observe(TOPIC, 0, committed=30, beginning=0, end=500)
    assert not await second.careful(0, offset=200)


async def test_behind_a_backlog_it_ends_after_as_many_as_can_have_been_in_hand(
    database: Database, before: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IN_HAND", 100)
    await before.beat(100)
    second = Worker(database)
    second.all_is_committed()
    second.progress.observe(TOPIC, 0, committed=1, beginning=0, end=1_000_000)
    assert await second.careful(0, offset=5, events=60)
    assert await second.careful(0, offset=6, events=60)
    assert await second.careful(0, offset=7, events=60)  # passed, and not committed yet: nothing is over
    second.progress.observe(TOPIC, 0, committed=7, beginning=0, end=1_000_000)
    assert not await second.careful(0, offset=8)
