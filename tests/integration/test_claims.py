"""A claim covers as many events as were asked for; several may be on their way, and what fails of them is released."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Collection
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents.sweeper import Hops, Sweeper
from boost_streams.errors import BrokerAway
from boost_streams.ledger import Ledger
from boost_streams.publishing import BrokerState, Publisher
from boost_streams.records import RawEventBatch
from db.batches import NOTHING_PASSED, Claim, claim_due_batches_across_projects
from db.pool import Database
from tests.support.projects import make_project
from tests.support.stored_events import store

HOPS = Hops("raw-events", ("events.default", "events.user"), 2)


class _Broker:
    """Takes the first message at once; holds others until `together` are on their way, but not for longer than so
    many seconds. Refuses some by their number.
    """

    def __init__(self, together: int, refuses: Collection[int] = (), seconds: float = 10) -> None:
        self.on_their_way = self.most = self.sends = 0
        self.arrived: set[UUID] = set()
        self._together = together
        self._refuses = refuses
        self._seconds = seconds
        self._enough = asyncio.Event()

    async def send(self, *, value: RawEventBatch, **_: object) -> asyncio.Task[None]:
        self.sends += 1
        return asyncio.create_task(self._deliver(self.sends, value.batch_id))

    async def _deliver(self, number: int, batch_id: UUID) -> None:
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)
        if self.on_their_way == self._together:
            self._enough.set()
        if number > 1:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self._seconds)
        self.on_their_way -= 1
        if number in self._refuses:
            raise BrokerAway("gone")
        self.arrived.add(batch_id)


async def unpublished_batches(database: Database, count: int, events: int = 1) -> None:
    project = await make_project(database)
    for _ in range(count):
        await store(database, project.id, *["foo"] * events)
    async with database.across_projects() as connection:
        await connection.execute("UPDATE event_batches SET last_published_at = NULL, due_at = now()")


def new_sweeper(database: Database, topic: _Broker, ledger: Ledger | None = None, **changes: int) -> Sweeper:
    """Return a sweeper that claims one batch at a time and takes this broker to be there."""
    state = BrokerState(("127.0.0.1:1",))
    state.ready = True
    state.taken()
    ledger = ledger or Ledger(uuid4(), "test", "http://test", ("sweeper",))
    return Sweeper(database, Publisher(topic, state), ledger, HOPS, stuck_after_seconds=300, batch_size=1, **changes)


async def test_what_is_claimed_next_does_not_wait_for_what_is_on_its_way(database: Database) -> None:
    await unpublished_batches(database, 7)
    topic = _Broker(together=4)
    sweeper = new_sweeper(database, topic, claims_at_once=4)
    async with asyncio.timeout(10):
        assert await sweeper.sweep_unpublished() == 7
    assert topic.most == 4


async def test_a_worker_that_answers_requests_has_one_claim_on_its_way(database: Database) -> None:
    await unpublished_batches(database, 4)
    topic = _Broker(together=2, seconds=0.3)
    sweeper = new_sweeper(database, topic)
    async with asyncio.timeout(10):
        assert await sweeper.sweep_unpublished() == 4
    assert topic.most == 1


async def test_of_several_claims_on_their_way_those_that_fail_are_released(database: Database) -> None:
    await unpublished_batches(database, 6)
    topic = _Broker(together=4, refuses=[3, 5])
    ledger = Ledger(uuid4(), "test", "http://test", ("sweeper",))
    sweeper = new_sweeper(database, topic, ledger, claims_at_once=4)
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    async with asyncio.timeout(10):
        await sweeper.sweep_unpublished()
    gc.collect()
    assert unheard == []
    async with database.across_projects() as connection:
        published = await connection.fetch("SELECT id FROM event_batches WHERE last_published_at IS NOT NULL")
    assert topic.most == 4
    assert {row["id"] for row in published} == topic.arrived
    assert ledger.open_count == 0


@pytest.mark.parametrize(("batches", "events", "claimed"), [(130, 1, 100), (30, 40, 3), (5, 1, 5)])
async def test_one_claim_covers_as_many_events_as_were_asked_for(
    database: Database, batches: int, events: int, claimed: int
) -> None:
    await unpublished_batches(database, batches, events)
    async with database.across_projects() as connection:
        found = await claim_due_batches_across_projects(connection, Claim(uuid4(), 1, 300), NOTHING_PASSED, 100)
    assert [len(batch.events) for batch in found] == [events] * claimed


async def test_a_claim_of_large_batches_leaves_others_to_other_sweepers(database: Database) -> None:
    await unpublished_batches(database, 30, 40)
    async with database.across_projects() as first, database.across_projects() as second:
        async with first.transaction():
            await claim_due_batches_across_projects(first, Claim(uuid4(), 1, 300), NOTHING_PASSED, 100)
            found = await claim_due_batches_across_projects(second, Claim(uuid4(), 1, 300), NOTHING_PASSED, 100)
    assert len(found) == 3
