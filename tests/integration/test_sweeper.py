"""The sweeper publishes what is stuck and only that, once, however many sweep; on both brokers."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents.effects import Settled
from agents.settlement import Settlement
from agents.sweeper import Hops, Sweeper, split_by_size
from boost_streams.errors import BrokerAway
from boost_streams.event_id import batch_of
from boost_streams.events import Event
from boost_streams.giving_way import GivingWay
from boost_streams.ledger import Ledger
from boost_streams.outcomes import Processed, TryAgain
from boost_streams.publishing import BrokerState, Publisher
from db.batches import record_of_row, release_batches_across_projects
from db.pool import Database
from db.workers import (
    DEAD_AFTER_SECONDS,
    bury_dead_workers_across_projects,
    heartbeat_across_projects,
    leave_across_projects,
    record_progress_across_projects,
)
from tests.support.broker import TestBroker, running_broker, topic_on_kafka
from tests.support.projects import make_project
from tests.support.stored_events import WORKER, store
from tests.support.waiting import eventually

HOPS = Hops("raw-events", ("events.default", "events.user"), 2)
ALL = [(topic, partition) for topic in (HOPS.first, *HOPS.second) for partition in range(HOPS.partitions)]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def kafka_bootstrap(request: pytest.FixtureRequest) -> str | None:
    """What holds on the in-process broker holds on Kafka: None for the former."""
    return request.getfixturevalue("kafka").bootstrap if request.param == "kafka" else None


@pytest.fixture
async def broker(kafka_bootstrap: str | None) -> AsyncIterator[TestBroker]:
    running = running_broker() if kafka_bootstrap is None else topic_on_kafka(kafka_bootstrap)
    async with running as broker:
        yield broker


def new_sweeper(database: Database, publisher: Publisher, **changes: Any) -> Sweeper:
    options = {"stuck_after_seconds": 300, "batch_size": 100, "progress_seconds": 0.2, **changes}
    return Sweeper(database, publisher, Ledger(uuid4(), "test", "http://test", ("sweeper",)), HOPS, **options)


async def execute(database: Database, sql: str, *args: object) -> list[Any]:
    async with database.across_projects() as connection:
        return await connection.fetch(sql, *args)


async def make_old(database: Database, minutes: int) -> None:
    """Let all batches have been committed and published that long ago, and due."""
    await execute(
        database,
        "UPDATE event_batches SET created_at = created_at - make_interval(mins => $1), due_at = now(), "
        "last_published_at = last_published_at - make_interval(mins => $1)",
        minutes,
    )


class Consumers:
    """Consumers that report where they are every 50 ms, as real ones do every second."""

    def __init__(self, database: Database, behind: dict[str, dt.datetime] | None = None) -> None:
        self._database = database
        self._behind = behind or {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._report())
        await asyncio.sleep(0)

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _report(self) -> None:
        while True:
            async with self._database.across_projects() as connection:
                await record_progress_across_projects(
                    connection, WORKER, [(topic, partition, self._behind.get(topic)) for topic, partition in ALL]
                )
            await asyncio.sleep(0.05)


async def report_once(database: Database) -> None:
    async with database.across_projects() as connection:
        await record_progress_across_projects(connection, WORKER, [(t, p, None) for t, p in ALL])


async def test_what_consumers_passed_is_published_once_per_pause(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    for _ in range(250):
        await store(database, project.id, "foo")
    await make_old(database, 10)
    sweeper = new_sweeper(database, await broker.publisher())
    await report_once(database)
    async with Consumers(database):
        assert await sweeper.sweep_stuck() == 250
        assert await sweeper.sweep_stuck() == 0
    batches = await broker.batches()
    assert len(batches) == 250
    assert len({batch.batch_id for batch in batches}) == 250
    (row,) = await execute(
        database, "SELECT min(due_at - now()) AS pause, max(publish_count) AS published FROM event_batches"
    )
    assert dt.timedelta(minutes=9) < row["pause"] <= dt.timedelta(minutes=10)
    assert row["published"] == 2
    assert {r["status"] for r in await execute(database, "SELECT status FROM events")} == {"pending"}


async def test_the_pause_grows_to_an_hour_and_no_event_fails(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    sweeper = new_sweeper(database, await broker.publisher())
    pauses = []
    await report_once(database)
    async with Consumers(database):
        for _ in range(6):
            await make_old(database, 200)
            assert await sweeper.sweep_stuck() == 1
            (row,) = await execute(database, "SELECT due_at - now() AS pause FROM event_batches")
            pauses.append(round(row["pause"].total_seconds() / 60))
    assert pauses == [10, 20, 40, 60, 60, 60]
    (event,) = await execute(database, "SELECT status, attempt FROM events")
    assert (event["status"], event["attempt"]) == ("pending", 0)


class _NotesRests(GivingWay):
    """A worker that catches up: notes after how much work it is asked how long to rest."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[float] = []

    def rest_after(self, seconds: float) -> float:
        self.after.append(seconds)
        return 0.2


async def test_a_worker_that_catches_up_rests_after_each_claim(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    for _ in range(3):
        await store(database, project.id, "foo")
    await make_old(database, 10)
    notes = _NotesRests()
    sweeper = new_sweeper(database, await broker.publisher(), batch_size=1, giving_way=notes)
    await report_once(database)
    async with Consumers(database):
        started = time.monotonic()
        assert await sweeper.sweep_stuck() == 3
    assert len(notes.after) == 3
    assert 0 < sum(notes.after) <= time.monotonic() - started - 3 * 0.2


@pytest.mark.parametrize("slow_topic", [HOPS.first, HOPS.second[0]])
async def test_what_is_queued_behind_a_backlog_is_left_alone(
    database: Database, broker: TestBroker, slow_topic: str
) -> None:
    project = await make_project(database)
    await store(database, project.id, *["foo"] * 50)
    await make_old(database, 9)
    sweeper = new_sweeper(database, await broker.publisher())
    ten_minutes_ago = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
    await report_once(database)
    async with Consumers(database, {slow_topic: ten_minutes_ago}):

        async def reported() -> bool:
            return bool(await execute(database, "SELECT 1 FROM consumer_progress WHERE NOT caught_up"))

        await eventually(reported)
        assert await sweeper.sweep_stuck() == 0
    assert await broker.batches() == []


async def test_nothing_is_stuck_while_nobody_reports(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    await make_old(database, 10)
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_stuck() == 0
    await report_once(database)
    await execute(database, "UPDATE consumer_progress SET recorded_at = recorded_at - interval '1 minute'")
    assert await sweeper.sweep_stuck() == 0


async def test_a_young_batch_is_not_stuck(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    sweeper = new_sweeper(database, await broker.publisher())
    await report_once(database)
    async with Consumers(database):
        assert await sweeper.sweep_stuck() == 0


async def test_two_sweepers_publish_each_batch_once(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    for _ in range(60):
        await store(database, project.id, "foo", "user_login")
    await make_old(database, 10)
    sweepers = [new_sweeper(database, await broker.publisher(), batch_size=10) for _ in range(2)]
    await report_once(database)
    async with Consumers(database):
        counts = await asyncio.gather(*(sweeper.sweep_stuck() for sweeper in sweepers))
    assert sum(counts) == 120
    assert set(Counter(batch.batch_id for batch in await broker.batches()).values()) == {1}


async def test_settled_events_are_not_published_again(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo", "foo", "foo")
    rows = await execute(database, "SELECT * FROM events WHERE id = $1", ids[1])
    await Settlement(database).settle("default", [Settled(Event.of_record(record_of_row(rows[0])), Processed())])
    await make_old(database, 10)
    sweeper = new_sweeper(database, await broker.publisher())
    await report_once(database)
    async with Consumers(database):
        assert await sweeper.sweep_stuck() == 2
    (batch,) = await broker.batches()
    assert [event.id for event in batch.events] == [ids[0], ids[2]]
    assert batch.batch_id == batch_of(ids[0])


async def test_released_batches_go_out_at_once(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo")
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_unpublished() == 0
    async with database.across_projects() as connection:
        await release_batches_across_projects(connection, [batch_of(ids[0])])
    assert await sweeper.sweep_unpublished() == 1
    assert await sweeper.sweep_unpublished() == 0


async def test_retries_that_are_due_go_out_with_their_attempt(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo", "foo")
    rows = await execute(database, "SELECT * FROM events ORDER BY id")
    events = [Event.of_record(record_of_row(row)) for row in rows]
    await Settlement(database).settle(
        "default", [Settled(events[0], TryAgain("away", 0)), Settled(events[1], TryAgain("away", 3600))]
    )
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_unpublished() == 1
    assert await sweeper.sweep_unpublished() == 0
    (batch,) = await broker.batches()
    assert [(event.id, event.attempt) for event in batch.events] == [(ids[0], 1)]


async def test_the_sweep_stops_and_releases_when_the_broker_is_away(database: Database) -> None:
    project = await make_project(database)
    for _ in range(5):
        await store(database, project.id, "foo")
    await execute(database, "UPDATE event_batches SET last_published_at = NULL, due_at = now()")

    class Gone:
        sends = 0

        async def send(self, **_: object) -> None:
            self.sends += 1
            raise BrokerAway("gone")

    state = BrokerState(("127.0.0.1:1",))
    state.ready = True
    state.taken()
    topic = Gone()
    sweeper = new_sweeper(database, Publisher(topic, state), batch_size=1)
    assert await sweeper.sweep_unpublished() == 0
    assert topic.sends == 1
    unpublished = await execute(
        database, "SELECT 1 FROM event_batches WHERE last_published_at IS NULL AND due_at <= now()"
    )
    assert len(unpublished) == 5
    assert await sweeper.sweep_unpublished() == 0
    assert topic.sends == 1


async def test_what_a_dead_worker_left_is_released(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, "foo")
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, WORKER, "host", "http://host", ["web"], 0)
        assert await bury_dead_workers_across_projects(connection) == {}
        await connection.execute(
            "UPDATE workers SET heartbeat_at = now() - make_interval(secs => $1)", DEAD_AFTER_SECONDS + 1
        )
        assert await bury_dead_workers_across_projects(connection) == {WORKER: 1}
        assert await bury_dead_workers_across_projects(connection) == {}
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_unpublished() == 1
    (batch,) = await broker.batches()
    assert [event.id for event in batch.events] == ids
    assert batch.suspect


async def test_what_a_dead_worker_left_stays_suspect_until_it_is_settled(
    database: Database, broker: TestBroker
) -> None:
    """Batches and retries; whoever publishes them next, and however often, nobody knows that they are harmless."""
    project = await make_project(database)
    await store(database, project.id, "foo")
    (row,) = await execute(database, "SELECT * FROM events")
    await store(database, project.id, "bar")
    await Settlement(database).settle("default", [Settled(Event.of_record(record_of_row(row)), TryAgain("away", 0))])
    await execute(database, "UPDATE event_retries SET worker_id = $1, seq = 1, last_published_at = now()", WORKER)
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, WORKER, "host", "http://host", ["web"], 0)
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute'")
        assert await bury_dead_workers_across_projects(connection) == {WORKER: 2}
    publisher = await broker.publisher()
    for _ in range(2):
        assert await new_sweeper(database, publisher).sweep_unpublished() == 2
        await execute(database, "UPDATE event_batches SET last_published_at = NULL, due_at = now()")
        await execute(database, "UPDATE event_retries SET last_published_at = NULL, due_at = now()")
    batches = await broker.batches()
    assert sorted(event.event_type for batch in batches for event in batch.events) == ["bar", "bar", "foo", "foo"]
    assert all(batch.suspect for batch in batches)


async def test_what_a_worker_left_that_stopped_in_order_is_not_suspect(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, WORKER, "host", "http://host", ["web"], 0)
        await leave_across_projects(connection, WORKER, 0)
    assert await new_sweeper(database, await broker.publisher()).sweep_unpublished() == 1
    (batch,) = await broker.batches()
    assert not batch.suspect


async def test_what_a_dead_worker_had_published_stays(database: Database) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")  # with number 1 of WORKER
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, WORKER, "host", "http://host", ["web"], 1)
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute'")
        assert await bury_dead_workers_across_projects(connection) == {WORKER: 0}
        assert await connection.fetch("SELECT 1 FROM event_batches WHERE last_published_at IS NULL") == []


async def test_a_batch_whose_project_is_gone_is_set_right(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM projects WHERE id = $1", project.id)
    await execute(database, "UPDATE event_batches SET last_published_at = NULL, due_at = now()")
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_unpublished() == 0
    assert await execute(database, "SELECT 1 FROM event_batches") == []
    assert await broker.batches() == []


async def test_a_large_batch_goes_out_in_several_messages(database: Database) -> None:
    project = await make_project(database)
    ids = await store(database, project.id, *["foo"] * 30, payload=b'{"a": "' + b"x" * 60_000 + b'"}')
    rows = await execute(database, "SELECT * FROM events ORDER BY id")
    parts = list(split_by_size([record_of_row(row) for row in rows]))
    assert len(parts) == 2
    assert [event.id for part in parts for event in part] == ids
    assert isinstance(parts[0][0].id, UUID)


async def test_a_sweep_never_raises(database: Database, broker: TestBroker) -> None:
    """A raising timer would end the worker."""
    owner = await database.connect(role="boost_owner")
    await owner.execute("DROP TABLE consumer_progress, event_batches CASCADE")
    await owner.close()
    sweeper = new_sweeper(database, await broker.publisher())
    assert await sweeper.sweep_stuck() == 0
    assert await sweeper.sweep_unpublished() == 0


async def test_a_claim_whose_release_failed_is_released_later(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    await store(database, project.id, "foo")
    await execute(database, "UPDATE event_batches SET last_published_at = NULL, due_at = now()")

    class Breaking:
        """Takes the database away while it is asked to send."""

        async def send(self, **_: object) -> None:
            await database.close()
            raise BrokerAway("gone")

    state = BrokerState((broker.bootstrap,))
    state.ready = True
    state.taken()
    sweeper = new_sweeper(database, Publisher(Breaking(), state))
    assert await sweeper.sweep_unpublished() == 0
    assert sweeper._ledger.open_count == 1
    await database.open()
    sweeper._publisher = await broker.publisher()
    assert await sweeper.sweep_unpublished() == 1
    assert sweeper._ledger.open_count == 0


async def test_a_retry_goes_out_after_the_broker_was_away(database: Database, broker: TestBroker) -> None:
    project = await make_project(database)
    (event_id,) = await store(database, project.id, "foo")
    (row,) = await execute(database, "SELECT * FROM events")
    await Settlement(database).settle("default", [Settled(Event.of_record(record_of_row(row)), TryAgain("away", 0))])
    publisher = await broker.publisher()
    publisher.state.failed(BrokerAway("gone"))
    sweeper = new_sweeper(database, publisher)
    assert await sweeper.sweep_unpublished() == 0
    publisher.state.taken()
    assert await sweeper.sweep_unpublished() == 1
    (batch,) = await broker.batches()
    assert [event.id for event in batch.events] == [event_id]
