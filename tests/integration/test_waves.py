"""Which events one commit takes of those that come at once, and when the next commit begins."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from boost_streams.errors import Invalid
from db.new_events import NewEvent
from db.pool import Database
from tests.support.intakes import running_intake
from tests.support.projects import make_project
from tests.support.waiting import eventually
from web import commit as commit_module
from web import intake as intake_module
from web.waiting import Accepted, Answer


class _Held:
    """Stores of commits that are held until they are let go, in the order in which they began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._gates: list[asyncio.Event] = []
        self._store = commit_module.store_batch_across_projects
        monkeypatch.setattr(commit_module, "store_batch_across_projects", self._held)

    async def _held(self, connection: Any, batch_id: UUID, events: Any, **named: Any) -> Any:
        gate = asyncio.Event()
        self.sizes.append(len(events))
        self._gates.append(gate)
        await gate.wait()
        return await self._store(connection, batch_id, events, **named)

    def let_go(self, number: int) -> None:
        self._gates[number].set()


@pytest.mark.parametrize(("takes_in_only", "sizes"), [(True, [20, 20]), (False, [40])])
async def test_a_wave_is_stored_whole_or_in_halves_one_after_the_other(
    database: Database, monkeypatch: pytest.MonkeyPatch, takes_in_only: bool, sizes: list[int]
) -> None:
    monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 60.0)
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database, takes_in_only=takes_in_only) as intake:
        answers: list[list[Answer]] = []
        for _ in range(40):
            intake.submit_then([NewEvent(project.id, "x", b"{}")], answers.append)
        for number in range(len(sizes)):
            await eventually(lambda: len(held.sizes) == number + 1)  # noqa: B023 - awaited within the turn
            await asyncio.sleep(0.05)
            assert held.sizes == sizes[: number + 1]
            held.let_go(number)
        await eventually(lambda: len(answers) == 40)


async def test_who_sends_many_events_in_one_request_waits_for_one_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database, takes_in_only=True) as intake:
        for number in range(20):
            request = asyncio.create_task(intake.submit([NewEvent(project.id, "x", b"{}")] * 100))
            await eventually(lambda: len(held.sizes) == number + 1)  # noqa: B023 - awaited within the turn
            held.let_go(number)
            await request
    assert held.sizes == [100] * 20


@pytest.mark.parametrize(("takes_in_only", "enough"), [(True, 200), (False, 500)])
async def test_a_commit_begins_beside_another_once_enough_waits(
    database: Database, monkeypatch: pytest.MonkeyPatch, takes_in_only: bool, enough: int
) -> None:
    monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 60.0)
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database, takes_in_only=takes_in_only) as intake:
        answers: list[list[Answer]] = []
        for number, events in enumerate((100, enough - 1)):
            intake.submit_then([NewEvent(project.id, "x", b"{}")] * events, answers.append)
            await eventually(lambda: len(held.sizes) >= 1)
            await asyncio.sleep(0.05 * number)
        assert held.sizes == [100]
        intake.submit_then([NewEvent(project.id, "x", b"{}")], answers.append)
        await eventually(lambda: held.sizes == [100, enough])
        intake.submit_then([NewEvent(project.id, "x", b"{}")] * 500, answers.append)
        await asyncio.sleep(0.05)
        assert held.sizes == [100, enough]  # never more than two
        held.let_go(1)
        await eventually(lambda: held.sizes == [100, enough, 500])
        held.let_go(0)
        held.let_go(2)
        await eventually(lambda: sorted(len(one) for one in answers) == [1, 100, enough - 1, 500])


async def test_the_next_half_goes_to_postgresql_before_this_one_is_answered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 60.0)
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database, takes_in_only=True) as intake:
        under_way_at_answer: list[int] = []

        def answer(_: list[Answer]) -> None:
            under_way_at_answer.append(len(held.sizes))

        for _ in range(40):
            intake.submit_then([NewEvent(project.id, "x", b"{}")], answer)
        await eventually(lambda: held.sizes == [20])
        held.let_go(0)
        await eventually(lambda: len(under_way_at_answer) == 20)
        assert under_way_at_answer == [2] * 20
        held.let_go(1)
        await eventually(lambda: len(under_way_at_answer) == 40)


async def test_a_commit_that_is_halved_counts_as_under_way_until_its_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 60.0)
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database) as intake:
        poisoned = [NewEvent(project.id, "x", b"{}"), NewEvent(project.id, "x", b'{"a": "\\u0000"}')]
        first = asyncio.create_task(intake.submit(poisoned))
        await eventually(lambda: held.sizes == [2])
        held.let_go(0)
        await eventually(lambda: held.sizes == [2, 1])
        held.let_go(1)
        await eventually(lambda: held.sizes == [2, 1, 1])
        later = asyncio.create_task(intake.submit([NewEvent(project.id, "later", b"{}")] * 3))
        await asyncio.sleep(0.05)
        assert held.sizes == [2, 1, 1]
        held.let_go(2)
        await eventually(lambda: held.sizes == [2, 1, 1, 3])
        held.let_go(3)
        stored, refused = await first
        assert isinstance(refused, Invalid)
        assert isinstance(stored, Accepted)
        assert all(isinstance(answer, Accepted) for answer in await later)


async def test_what_is_left_by_a_commit_that_began_meanwhile_fills_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow commit ends, and the next begins, while the one that was to begin beside it lets requests in."""
    monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 0.05)
    project, held = await make_project(database), _Held(monkeypatch)
    async with running_intake(database, takes_in_only=True) as intake:
        answers: list[list[Answer]] = []

        def submit(requests: int) -> None:
            for _ in range(requests):
                intake.submit_then([NewEvent(project.id, "x", b"{}")], answers.append)

        gather = intake._gather

        async def gather_while_the_first_ends() -> None:
            await gather()
            if held.sizes == [20]:
                monkeypatch.setattr(intake_module, "SLOW_COMMIT_SECONDS", 60.0)
                submit(40)
                held.let_go(0)
                await eventually(lambda: len(held.sizes) > 1)

        monkeypatch.setattr(intake, "_gather", gather_while_the_first_ends)
        submit(40)
        await eventually(lambda: len(answers) == 20)
        await asyncio.sleep(0.05)
        assert held.sizes == [20, 40]
        held.let_go(1)
        await eventually(lambda: held.sizes == [20, 40, 20])
        held.let_go(2)
        await eventually(lambda: len(answers) == 80)
