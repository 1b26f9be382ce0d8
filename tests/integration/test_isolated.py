"""Handlers run apart, in real processes: what kills one, and what becomes of the events around it."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents import isolated
from agents.handlers import load_registry
from agents.isolated import KILLED, CannotIsolate, IsolatedHandlers
from boost_streams.outcomes import Failed, Processed, TryAgain
from boost_streams.records import EventRecord
from boost_streams.settings import load_settings
from tests.support.waiting import eventually

NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)
PROJECT = UUID(int=9)
MODULES = ("tests.support.misbehaving", "tests.support.misbehaving_prepare")


@pytest.fixture
def event_seconds() -> float:
    """How long an event may take; a test names another limit as a parameter."""
    return 0.5


@pytest.fixture
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, event_seconds: float) -> dict[str, str]:
    """Settings, in the environment as well: the process reads its own."""
    environment = {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "REDIS_URL": "",
        "BOOST_HANDLER_MODULES": ",".join(MODULES),
        "HANDLER_EVENT_SECONDS": str(event_seconds),
        "HANDLER_MEMORY_MIB": "128",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
async def handlers(environment: dict[str, str]) -> AsyncIterator[IsolatedHandlers]:
    apart = IsolatedHandlers(load_registry(MODULES), load_settings(environment))
    yield apart
    pid = pid_of(apart) if apart._child else None
    apart.close()
    await eventually(lambda: pid is None or gone(pid))
    await asyncio.sleep(0)  # its transport is closed in the turn after its end


def records(*hows: str, event_type: str = "misbehave", first: int = 1) -> list[EventRecord]:
    payloads = [msgspec.Raw(msgspec.json.encode({"how": how} if how else {})) for how in hows]
    return [
        EventRecord(UUID(int=number), PROJECT, event_type, NOON, NOON, payload)
        for number, payload in enumerate(payloads, start=first)
    ]


def gone(pid: int) -> bool:
    """Tell whether a process has ended and was collected."""
    return not Path(f"/proc/{pid}").exists()


def pid_of(handlers: IsolatedHandlers) -> int:
    assert handlers._child is not None
    pid: int = handlers._child._process.pid
    return pid


async def test_each_event_gets_the_answer_that_it_gets_in_the_worker(handlers: IsolatedHandlers) -> None:
    asked = records("", "fail", "raise", "later", "nothing", "exit")
    settled, killers = await handlers.outcomes(asked)
    outcomes: list[Any] = [one.outcome for one in settled]
    assert killers == []
    assert [one.event.id for one in settled] == [record.id for record in asked]
    assert isinstance(outcomes[0], Processed)
    assert [outcome.code for outcome in (outcomes[1], outcomes[2], outcomes[4], outcomes[5])] == [
        "invalid",
        "handler_raised",
        "handler_answer",
        "handler_raised",
    ]
    assert outcomes[3] == TryAgain("on purpose", 0.2)


# What ends by itself gets as much time as the slowest machine takes for it.
@pytest.mark.parametrize(
    ("how", "why", "event_seconds"),
    [
        ("loop", "no answer within 0.5 s", 0.5),
        ("sleep", "no answer within 0.5 s", 0.5),
        ("regex", "no answer within 0.5 s", 0.5),
        ("memory", "it took over 128 MiB of memory", 60),
        ("crash", "the process ended with SIGSEGV", 60),
    ],
)
async def test_what_kills_the_process_twice_has_failed(handlers: IsolatedHandlers, how: str, why: str) -> None:
    settled, killers = await handlers.outcomes(records("", "", how, "", ""))
    assert [one.event.id.int for one in killers] == [3]
    failed = killers[0].outcome
    assert isinstance(failed, Failed)
    assert failed.code == KILLED
    assert why in failed.message
    assert {one.event.id.int for one in settled if isinstance(one.outcome, Processed)} == {1, 2, 4, 5}
    assert len(settled) == 5


async def test_a_copy_of_a_killer_kills_nobody_again(handlers: IsolatedHandlers) -> None:
    bad = records("crash")
    settled, killers = await handlers.outcomes([*bad, *records("", first=2), *bad])
    assert [one.event.id.int for one in killers] == [1, 1]
    assert len(settled) == 3
    before = pid_of(handlers)
    settled, killers = await handlers.outcomes([*bad, *records("", first=2)])
    assert killers == []
    assert {type(one.outcome) for one in settled} == {Failed, Processed}
    assert pid_of(handlers) == before


async def test_one_that_was_killed_once_by_others_is_tried_again(handlers: IsolatedHandlers) -> None:
    await handlers.outcomes(records(""))
    running = asyncio.create_task(handlers.outcomes(records("sleep")))
    before = pid_of(handlers)
    await asyncio.sleep(0.1)
    os.kill(before, signal.SIGKILL)
    settled, _ = await running
    (one,) = settled
    assert isinstance(one.outcome, Failed)
    assert "no answer within 0.5 s" in one.outcome.message  # the second time, and of itself


async def test_prepare_runs_apart_as_well(handlers: IsolatedHandlers) -> None:
    asked = records("", "raise", "late", "block", "", event_type="prepare_badly")
    settled, killers = await handlers.outcomes(asked)
    outcomes = {one.event.id.int: type(one.outcome) for one in settled}
    assert outcomes == {1: Processed, 2: TryAgain, 3: TryAgain, 4: Failed, 5: Processed}
    assert [one.event.id.int for one in killers] == [4]


async def test_thousands_of_events_and_large_ones(handlers: IsolatedHandlers) -> None:
    large = EventRecord(UUID(int=1), PROJECT, "x", NOON, NOON, msgspec.Raw(b'{"text": "' + b"x" * 900_000 + b'"}'))
    settled, killers = await handlers.outcomes([*[large] * 8, *records(*[""] * 3000, first=2)])
    assert killers == []
    assert len(settled) == 3008
    assert all(isinstance(one.outcome, Processed) for one in settled)


async def test_an_unreadable_payload_fails(handlers: IsolatedHandlers) -> None:
    broken = msgspec.structs.replace(records("")[0], payload=msgspec.Raw(b"[1]"))
    settled, _ = await handlers.outcomes([broken])
    assert isinstance(settled[0].outcome, Failed)
    assert settled[0].outcome.code == "malformed_payload"


async def test_a_stopped_worker_does_not_blame_the_event(
    handlers: IsolatedHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time is counted in waits: one long wait, as after SIGCONT, is one tick."""
    await handlers.outcomes(records(""))
    before = pid_of(handlers)
    os.kill(before, signal.SIGSTOP)
    running = asyncio.create_task(handlers.outcomes(records("")))
    await asyncio.sleep(0.2)
    os.kill(before, signal.SIGCONT)
    settled, killers = await running
    assert (killers, type(settled[0].outcome), pid_of(handlers)) == ([], Processed, before)


async def test_the_process_goes_with_the_work(handlers: IsolatedHandlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "IDLE_SECONDS", 0.2)
    await handlers.outcomes(records(""))
    pid = pid_of(handlers)
    await eventually(lambda: gone(pid))
    assert handlers._child is None
    settled, _ = await handlers.outcomes(records(""))
    assert isinstance(settled[0].outcome, Processed)


async def test_cancelled_it_leaves_no_process(handlers: IsolatedHandlers) -> None:
    await handlers.outcomes(records(""))
    pid = pid_of(handlers)
    running = asyncio.create_task(handlers.outcomes(records("sleep")))
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: gone(pid))


async def test_a_process_that_cannot_start_is_no_events_fault(
    handlers: IsolatedHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOOST_HANDLER_MODULES", "no.such.module")
    with pytest.raises(CannotIsolate):
        await handlers.outcomes(records(""))
