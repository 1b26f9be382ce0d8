"""Group commit: one batch per commit, an offender alone is refused, messageIds are stored once."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import math
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from boost_streams.errors import Invalid, Overloaded, Unauthorized, Unavailable
from boost_streams.event_id import batch_of, day_of, id_at
from boost_streams.giving_way import GivingWay
from db.intake import swap_key_generations_across_projects
from db.new_events import NewEvent
from db.pool import Database
from db.projects import delete_project_across_projects
from tests.support.intakes import new_intake, running_intake
from tests.support.projects import make_project
from tests.support.waiting import eventually
from web import commit as commit_module
from web import intake as intake_module
from web import outbox as outbox_module
from web.intake import Intake
from web.waiting import Accepted, Submission


@pytest.fixture
async def intake(database: Database) -> AsyncIterator[Intake]:
    async with running_intake(database) as intake:
        yield intake


async def rows(database: Database, sql: str, *args: object) -> list[Any]:
    async with database.across_projects() as connection:
        return await connection.fetch(sql, *args)


def kept_requests(project_id: UUID) -> list[Submission]:
    kept = [one for one in gc.get_objects() if isinstance(one, Submission)]
    return [one for one in kept if one.events[0].project_id == project_id]


async def test_requests_that_wait_together_are_committed_together(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    answers = await asyncio.gather(*(intake.submit([NewEvent(project.id, "x", b"{}")]) for _ in range(100)))
    ids = {UUID(answer.id) for (answer,) in answers if isinstance(answer, Accepted)}
    assert len(ids) == 100
    batches = await rows(database, "SELECT unsettled, first_id, last_id FROM event_batches")
    assert sum(batch["unsettled"] for batch in batches) == 100
    assert len(batches) < 20
    assert all(any(b["first_id"] <= event_id <= b["last_id"] for b in batches) for event_id in ids)


class _Counts(GivingWay):
    """Notes what was taken in."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_in: list[int] = []

    def took_in(self, events: int) -> None:
        self.taken_in.append(events)


async def test_what_was_taken_in_is_counted(database: Database) -> None:
    project, counts = await make_project(database), _Counts()
    async with running_intake(database, giving_way=counts) as intake:
        await intake.submit([NewEvent(project.id, "x", b"{}")] * 3)
    assert counts.taken_in == [3]


@pytest.mark.parametrize(("long_seconds", "turns"), [(0.0, 1), (60.0, 2)])
async def test_a_commit_does_not_wait_for_turns_that_are_long_and_bring_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, long_seconds: float, turns: int
) -> None:
    """What else the event loop does keeps no request waiting that is here already."""
    monkeypatch.setattr(intake_module, "_BUSY_TURN_SECONDS", long_seconds)
    project, intake, seen = await make_project(database), new_intake(database), 0
    intake.submit_then([NewEvent(project.id, "x", b"{}")], lambda _: None)
    intake._wave.look(100, 100)  # so many came together lately: more are worth waiting for

    async def work() -> None:
        nonlocal seen
        while True:
            seen += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    await intake._gather()
    working.cancel()
    assert seen == turns


async def test_a_poisoned_value_costs_its_own_request_only(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    events = [NewEvent(project.id, "x", b"{}") for _ in range(20)]
    events[7] = NewEvent(project.id, "x", b'{"a": "\\u0000"}')
    events[13] = NewEvent(project.id, "x", b'{"a": 1e999999}')
    answers = await intake.submit(events)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, Invalid)] == [7, 13]
    stored = await rows(database, "SELECT id FROM events ORDER BY id")
    assert {row["id"] for row in stored} == {UUID(answer.id) for answer in answers if isinstance(answer, Accepted)}
    (left,) = await rows(database, "SELECT sum(unsettled) AS n FROM event_batches")
    assert left["n"] == 18


async def test_a_project_deleted_meanwhile_costs_its_own_requests_only(database: Database, intake: Intake) -> None:
    project, other = await make_project(database), await make_project(database, "other")
    async with database.across_projects() as connection:
        await delete_project_across_projects(connection, other.id)
    answers = await asyncio.gather(
        *(intake.submit([NewEvent(owner, "x", b"{}")]) for owner in (project.id, other.id, project.id))
    )
    assert [type(answer) for (answer,) in answers] == [Accepted, Unauthorized, Accepted]


async def test_a_message_id_is_stored_once(database: Database, intake: Intake) -> None:
    project, other = await make_project(database), await make_project(database, "other")
    event = NewEvent(project.id, "x", b"{}", message_id="m-1")
    answers = await asyncio.gather(*(intake.submit([event]) for _ in range(30)))
    taken = [answer for (answer,) in answers]
    assert len({answer.id for answer in taken}) == 1
    assert sum(not answer.duplicate for answer in taken) == 1
    assert len(await rows(database, "SELECT 1 FROM events")) == 1
    ((elsewhere,),) = [await intake.submit([NewEvent(other.id, "x", b"{}", message_id="m-1")])]
    assert not elsewhere.duplicate


async def test_a_message_id_within_one_request(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    event = NewEvent(project.id, "x", b"{}", message_id="m-1")
    first, second = await intake.submit([event, event])
    assert first.id == second.id
    assert (first.duplicate, second.duplicate) == (False, True)


async def test_two_workers_take_the_same_message_ids(database: Database) -> None:
    project = await make_project(database)
    workers = [new_intake(database), new_intake(database)]
    for worker in workers:
        await worker.start()
    events = [NewEvent(project.id, "x", b"{}", message_id=f"m-{n}") for n in range(50)]
    answers = await asyncio.gather(
        workers[0].submit(events), workers[1].submit(events[::-1]), workers[0].submit(events[25:])
    )
    ids = [
        {e.message_id: a.id for e, a in zip(sent, got, strict=True)}
        for sent, got in zip((events, events[::-1], events[25:]), answers, strict=True)
    ]
    assert ids[0] == ids[1]
    assert len(await rows(database, "SELECT 1 FROM events")) == 50
    for worker in workers:
        await worker.stop()


async def test_message_ids_survive_a_swap_of_generations(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    event = NewEvent(project.id, "x", b"{}", message_id="m-1")
    (first,) = await intake.submit([event])
    for expected_duplicate in (True, False):
        await rows(database, "UPDATE event_key_generation SET created_at = now() - interval '8 days'")
        async with database.across_projects() as connection:
            assert await swap_key_generations_across_projects(connection, 7)
            assert not await swap_key_generations_across_projects(connection, 7)
        (again,) = await intake.submit([event])
        assert again.duplicate is expected_duplicate
        if expected_duplicate:
            assert again.id == first.id


@pytest.mark.usefixtures("no_search_for_cycles")
async def test_what_is_answered_is_freed_without_a_search_for_cycles(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    refused = NewEvent(project.id, "x", b'{"a": "\\u0000"}')
    requests = [[NewEvent(project.id, "x", b"{}") for _ in range(10)] for _ in range(20)] + [[refused]]
    answers = await asyncio.gather(*(intake.submit(events) for events in requests))
    assert sum(isinstance(one, Accepted) for of_request in answers for one in of_request) == 200
    await eventually(lambda: not kept_requests(project.id))


async def test_overload_is_answered_at_once(database: Database) -> None:
    project = await make_project(database)
    intake = new_intake(database, most_waiting_bytes=2000)  # never started: nothing leaves the queue
    waiting = [asyncio.create_task(intake.submit([NewEvent(project.id, "x", b"{}")])) for _ in range(7)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as caught:
        await intake.submit([NewEvent(project.id, "x", b"x" * 1000)])
    assert caught.value.retry_after is not None
    await intake.start()
    assert all(isinstance(answer, Accepted) for (answer,) in await asyncio.gather(*waiting))
    await intake.stop()


async def test_what_was_not_published_is_known_to_the_database(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    await intake.submit([NewEvent(project.id, "x", b"{}")])

    async def released() -> bool:
        return bool(await rows(database, "SELECT 1 FROM event_batches WHERE last_published_at IS NULL"))

    await eventually(released, deadline=10)
    assert intake._committer._ledger.open_count == 0


async def test_ids_are_consecutive_within_a_batch(database: Database, intake: Intake) -> None:
    project = await make_project(database)
    answers = await intake.submit([NewEvent(project.id, "x", b"{}") for _ in range(5)])
    first = UUID(answers[0].id).int
    assert [answer.id for answer in answers] == [str(UUID(int=first + n)) for n in range(5)]


@pytest.mark.usefixtures("no_search_for_cycles")
async def test_requests_are_let_go_of_as_they_are_answered(
    database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a tenth of a second later, when it is looked for requests whose time is over."""
    monkeypatch.setattr(intake_module, "_LOOK_SECONDS", 60)
    project = await make_project(database)
    await asyncio.sleep(0.2)  # the look that was under way
    await asyncio.gather(*(intake.submit([NewEvent(project.id, "x", b"{}")] * 3) for _ in range(20)))
    await eventually(lambda: not kept_requests(project.id))


@pytest.mark.usefixtures("no_search_for_cycles")
async def test_nothing_is_kept_for_commits_that_never_reached_postgresql() -> None:
    """While the server is away every request is answered 503, and memory does not grow with them."""
    nowhere = Database("postgresql://postgres@127.0.0.1:1/none")
    intake = new_intake(nowhere)
    await intake.start()
    project_id = uuid4()
    for _ in range(20):
        (answer,) = await intake.submit([NewEvent(project_id, "x", b"{}")])
        assert isinstance(answer, Unavailable)
        assert answer.retry_after is not None
    assert intake._committer._ledger.open_count == 0
    await eventually(lambda: not kept_requests(project_id))
    await intake.stop()


@pytest.mark.usefixtures("no_search_for_cycles")
async def test_nothing_is_kept_for_commits_that_broke_off(
    database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_off(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError

    monkeypatch.setattr(commit_module, "store_batch_across_projects", broken_off)
    project = await make_project(database)
    (answer,) = await intake.submit([NewEvent(project.id, "x", b"{}")])
    assert isinstance(answer, Unavailable)
    await eventually(lambda: not kept_requests(project.id))


async def test_the_release_loop_survives_any_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await make_project(database)
    released = outbox_module.release_batches_across_projects
    calls = 0

    async def deadlocked_once(*arguments: Any) -> set[UUID]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return await released(*arguments)

    monkeypatch.setattr(outbox_module, "release_batches_across_projects", deadlocked_once)
    intake = new_intake(database)
    await intake.start()
    await intake.submit([NewEvent(project.id, "x", b"{}")])
    await eventually(lambda: calls >= 2 and intake._committer._ledger.open_count == 0, deadline=10)
    await intake.stop()


async def test_a_commit_given_up_that_is_done_later_is_published(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock holds the commit up for longer than a request waits; then the server does it, whoever has given it up."""
    project = await make_project(database)
    monkeypatch.setattr(commit_module, "COMMIT_SECONDS", 2.0)
    stored = commit_module.store_batch_across_projects

    async def frozen(_: Any, *arguments: Any, **named: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            late.append(asyncio.create_task(goes_on(*arguments, **named)))

    async def goes_on(*arguments: Any, **named: Any) -> None:
        """Do what the server was asked to, after the database was told once that the batch is not published."""
        await eventually(lambda: any(until < math.inf for until in intake._outbox._may_come.values()), deadline=10)
        async with database.across_projects() as connection:
            await stored(connection, *arguments, **named)

    late: list[asyncio.Task[None]] = []
    monkeypatch.setattr(commit_module, "store_batch_across_projects", frozen)
    async with running_intake(database) as intake:
        started = asyncio.get_running_loop().time()
        (answer,) = await intake.submit([NewEvent(project.id, "x", b"{}")])
        assert isinstance(answer, Unavailable)
        assert asyncio.get_running_loop().time() - started < 2

        async def released() -> bool:
            found = await rows(database, "SELECT last_published_at FROM event_batches")
            return [row["last_published_at"] for row in found] == [None]

        await eventually(released, deadline=15)
        await eventually(lambda: intake._committer._ledger.open_count == 0, deadline=15)


async def test_what_was_answered_503_while_it_waited_is_not_stored_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await make_project(database)
    monkeypatch.setattr(intake_module, "ANSWER_SECONDS", 0.3)
    stored = commit_module.store_batch_across_projects
    thawed = asyncio.Event()

    async def frozen(*arguments: Any, **named: Any) -> Any:
        await thawed.wait()
        return await stored(*arguments, **named)

    monkeypatch.setattr(commit_module, "store_batch_across_projects", frozen)
    async with running_intake(database, commits_in_flight=1) as intake:
        first = asyncio.create_task(intake.submit([NewEvent(project.id, "first", b"{}")]))
        await eventually(lambda: len(intake._commits) == 1)
        answers = await asyncio.gather(*(intake.submit([NewEvent(project.id, "waits", b"{}")]) for _ in range(50)))
        assert all(isinstance(answer, Unavailable) for (answer,) in answers)
        assert isinstance((await first)[0], Unavailable)
        assert intake.budget.used == 0
        thawed.set()
        (after,) = await intake.submit([NewEvent(project.id, "after", b"{}")])
        assert isinstance(after, Accepted)
        types = [row["event_type"] for row in await rows(database, "SELECT event_type FROM events ORDER BY id")]
        assert types == ["first", "after"]


async def test_nothing_is_committed_when_time_runs_out_while_a_commit_gathers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of nothing would count as a backlog until a sweeper looked into it."""
    project = await make_project(database)
    async with running_intake(database) as intake:
        gather = intake._gather

        async def too_late() -> None:
            monkeypatch.setattr(intake, "_gather", gather)
            for submission in list(intake._to_answer):
                submission.give_up(Unavailable("too late", retry_after=1))
            intake._waiting.drop_answered()

        monkeypatch.setattr(intake, "_gather", too_late)
        (answer,) = await intake.submit([NewEvent(project.id, "x", b"{}")])
        assert isinstance(answer, Unavailable)
        (after,) = await intake.submit([NewEvent(project.id, "x", b"{}")])
        assert isinstance(after, Accepted)
    assert [row["unsettled"] for row in await rows(database, "SELECT unsettled FROM event_batches")] == [1]


async def test_a_commit_that_waited_for_a_swap_uses_the_new_generation(database: Database, intake: Intake) -> None:
    """Its key must not go into the generation that the swap has just closed."""
    project = await make_project(database)
    event = NewEvent(project.id, "x", b"{}", message_id="m-1")
    await rows(database, "UPDATE event_key_generation SET created_at = now() - interval '8 days'")
    async with database.across_projects() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await swap_key_generations_across_projects(connection, 7)
        waiting = asyncio.create_task(intake.submit([event]))

        async def waits() -> bool:
            return bool(await rows(database, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

        await eventually(waits, deadline=5)
        await transaction.commit()
    (answer,) = await waiting
    assert isinstance(answer, Accepted)
    assert not answer.duplicate
    assert len(await rows(database, "SELECT 1 FROM event_keys_b")) == 1
    assert await rows(database, "SELECT 1 FROM event_keys_a") == []


async def test_message_ids_are_stored_once_while_generations_are_swapped(database: Database) -> None:
    """Two workers take the same events while the swap happens, and again after it."""
    project = await make_project(database)

    async def swap() -> None:
        await rows(database, "UPDATE event_key_generation SET created_at = now() - interval '8 days'")

        async def swapped() -> bool:
            async with database.across_projects() as connection:
                return await swap_key_generations_across_projects(connection, 7)

        await eventually(swapped, deadline=10)

    async with running_intake(database) as one, running_intake(database) as other:
        for turn in range(8):
            events = [NewEvent(project.id, "x", b"{}", message_id=f"m-{turn}-{n}") for n in range(40)]
            sent = [worker.submit([event]) for event in events for worker in (one, other)]
            *answers, _ = await asyncio.gather(*sent, swap())
            again = await one.submit(events)
            assert all(isinstance(answer, Accepted) and answer.duplicate for answer in again)
            expected = [answer.id for answer in again for _ in (one, other)]
            assert [answer.id for (answer,) in answers] == expected
            assert sum(not answer.duplicate for (answer,) in answers) == 40
        assert len(await rows(database, "SELECT 1 FROM events")) == 8 * 40


async def test_a_message_id_across_midnight_is_stored_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first event lies in yesterday's partition, the retry would lie in today's."""
    project = await make_project(database)
    midnight = dt.datetime.combine(dt.datetime.now(dt.UTC).date(), dt.time(), dt.UTC)
    moments = iter([midnight - dt.timedelta(milliseconds=1), midnight, midnight + dt.timedelta(milliseconds=1)])
    monkeypatch.setattr(commit_module, "new_batch_id", lambda: batch_of(id_at(next(moments))))
    events = [NewEvent(project.id, "x", b"{}", message_id=f"m-{n}") for n in range(3)]
    async with running_intake(database) as one, running_intake(database) as other:
        first = await one.submit(events)
        again = await other.submit(events)
        fresh = await one.submit([NewEvent(project.id, "x", b"{}", message_id="m-new"), events[0]])
    assert [answer.id for answer in again] == [answer.id for answer in first]
    assert all(answer.duplicate for answer in again)
    assert [answer.duplicate for answer in fresh] == [False, True]
    assert {day_of(UUID(answer.id)) for answer in first} == {midnight.date() - dt.timedelta(days=1)}
    assert day_of(UUID(fresh[0].id)) == midnight.date()
    assert len(await rows(database, "SELECT 1 FROM events")) == 4
