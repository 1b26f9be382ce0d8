"""A topic that is paused: known to every worker, given back unsettled, read again when somebody resumes it."""

from __future__ import annotations

import asyncio
import datetime as dt
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from agents.effects import Settled
from agents.failing_share import FailingShare, Verdict
from agents.handlers import load_registry
from agents.handling import HandlerLoop
from agents.pauses import Pauses
from agents.postponing import Postponing
from agents.progress import ConsumerProgress
from boost_streams.events import Event
from boost_streams.giving_way import GivingWay
from boost_streams.outcomes import Outcome, failed, processed
from boost_streams.records import EventRecord, HandlerBatch
from db.pauses import pause_across_projects, pauses_across_projects, resume_across_projects
from db.pool import Database
from tests.support.projects import TestProject, make_project

TOPIC = "events.tracking"
NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)
VERDICT = Verdict("tracking", 0.9, 900, 2)


class Worker:
    """What one worker knows of pauses, and which topics it went back on."""

    def __init__(self, database: Database) -> None:
        self.progress = ConsumerProgress()
        self.read_again: list[str] = []
        self.pauses = Pauses(database, uuid4(), self.progress, self._go_back)

    async def _go_back(self, topic: str) -> None:
        assert self.progress.holds(topic)  # nothing is fetched before the place to read from is set
        self.read_again.append(topic)


@pytest.fixture
async def worker(database: Database) -> Worker:
    one = Worker(database)
    await one.pauses.refresh()
    return one


async def test_a_pause_is_known_to_every_worker_and_so_is_its_end(database: Database, worker: Worker) -> None:
    other = Worker(database)
    await other.pauses.refresh()
    assert await worker.pauses.judge(TOPIC, VERDICT)
    assert await worker.pauses.holds(TOPIC)
    assert not await other.pauses.holds(TOPIC)
    await worker.pauses.refresh()
    await other.pauses.refresh()
    assert await other.pauses.holds(TOPIC)
    assert not await other.pauses.holds("events.user")
    async with database.across_projects() as connection:
        (pause,) = await pauses_across_projects(connection)
        assert (pause.topic, pause.handler) == (TOPIC, "tracking")
        assert pause.reason == "90% of the events of handler tracking failed, 900 within a minute"
        assert await resume_across_projects(connection, TOPIC)
    for one in (worker, other):
        await one.pauses.refresh()
        assert not await one.pauses.holds(TOPIC)
        assert one.read_again == [TOPIC]


async def test_a_worker_handles_nothing_before_it_knows_what_is_paused(database: Database) -> None:
    async with database.across_projects() as connection:
        await pause_across_projects(connection, TOPIC, "for a test")
    new = Worker(database)
    asked = asyncio.create_task(new.pauses.holds(TOPIC))
    await asyncio.sleep(0)
    assert not asked.done()
    await new.pauses.refresh()
    assert await asked is True


async def test_one_project_of_several_pauses_nothing(
    worker: Worker, project: TestProject, other_project: TestProject
) -> None:
    assert not await worker.pauses.judge(TOPIC, Verdict("tracking", 1.0, 900, 1))
    assert not await worker.pauses.holds(TOPIC)


async def test_the_only_project_there_is_pauses(worker: Worker, project: TestProject) -> None:
    assert await worker.pauses.judge(TOPIC, Verdict("tracking", 1.0, 900, 1))


async def test_no_project_with_enough_failures_pauses_nothing(worker: Worker) -> None:
    assert not await worker.pauses.judge(TOPIC, Verdict("tracking", 1.0, 900, 0))


async def test_a_paused_topic_is_neither_caught_up_nor_read_again(worker: Worker) -> None:
    progress = worker.progress
    progress.took(TOPIC, 0, 0, NOON)
    progress.acknowledged(TOPIC, 0, 0)
    progress.took(TOPIC, 0, 1, NOON + dt.timedelta(minutes=1))
    await worker.pauses.judge(TOPIC, VERDICT)
    progress.gave_back(TOPIC, 0, 1)
    assert progress.in_hand == 0
    for _ in range(10):
        assert progress.observe(TOPIC, 0, committed=1, beginning=0, end=50) is None
        assert progress.position(TOPIC, 0, end=50) == NOON
        assert progress.committable(TOPIC, 0, 1) is None
    progress.held.discard(TOPIC)
    assert [progress.observe(TOPIC, 0, committed=1, beginning=0, end=50) for _ in range(3)] == [None, None, 1]


class _Care:
    """Answers for the handlers: they are broken until somebody mends them."""

    def __init__(self) -> None:
        self.outcome: Outcome = failed("handler_raised", None, "a bad deploy")

    async def outcomes(self, taken: Any) -> list[Settled]:
        records = [record for message in taken for record in message.value.events]
        return [Settled(Event.of_record(record), self.outcome) for record in records]


class _Message:
    """One message, and what Faust and the commit were told of it."""

    def __init__(self, offset: int, events: list[EventRecord]) -> None:
        self.topic, self.partition, self.offset = TOPIC, 0, offset
        self.value = HandlerBatch(UUID(int=offset), NOON, NOON, "tracking", events)
        self.told_faust = 0

    async def acknowledge(self) -> None:
        self.told_faust += 1


async def test_a_bad_deploy_settles_nothing_and_what_it_gave_back_is_settled_later(
    database: Database, worker: Worker, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, care = load_registry(), _Care()
    settled: list[Settled] = []

    async def settle(family: str, batch: list[Settled], *_: Any) -> list[Settled]:
        settled.extend(batch)
        return batch

    counted: list[int] = []
    giving_way = GivingWay()
    monkeypatch.setattr(giving_way, "settled", counted.append)

    loop = HandlerLoop(
        "tracking",
        registry,
        SimpleNamespace(settle=settle),  # type: ignore[arg-type]
        worker.progress,
        None,  # type: ignore[arg-type]
        SimpleNamespace(tell=lambda *_: None),  # type: ignore[arg-type]
        care,  # type: ignore[arg-type]
        worker.pauses,
        FailingShare("tracking", registry, limit=0.5, least=100),
        lambda: NOON,
        Postponing(database, lambda _: None),
        giving_way,
    )
    other = await make_project(database, "another")
    events = [
        EventRecord(UUID(int=n), owner, "page_view", NOON, NOON, msgspec.Raw(b'{"url": "/"}'))
        for n, owner in enumerate([project.id, other.id] * 100)
    ]
    messages: list[Any] = [_Message(0, events), _Message(1, events)]

    async def handle(message: Any) -> None:
        worker.progress.took(TOPIC, 0, message.offset, NOON)
        await loop._settle_and_acknowledge([message], await loop.handle([message]))

    for message in messages:
        await handle(message)
    assert settled == []
    assert [message.told_faust for message in messages] == [1, 1]
    assert worker.progress.in_hand == 0
    assert worker.progress.committable(TOPIC, 0, None) is None

    care.outcome = processed()
    await worker.pauses.refresh()
    async with database.across_projects() as connection:
        await resume_across_projects(connection, TOPIC)
    await worker.pauses.refresh()
    for message in messages:
        await handle(message)
    assert len(settled) == 400
    assert counted == [200, 200]
    assert worker.progress.committable(TOPIC, 0, None) == 2
