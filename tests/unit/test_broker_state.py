"""The broker's state follows what it answers, whether or not anything is sent."""

from __future__ import annotations

import asyncio

import pytest

from boost_streams import publishing
from boost_streams.publishing import BrokerState
from tests.support.waiting import eventually


async def test_the_watch_notices_the_broker_going_and_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "WATCH_IDLE_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "WATCH_AWAY_SECONDS", 0.01)
    away = False

    async def ask() -> None:
        if away:
            raise ConnectionError("nobody there")

    state = BrokerState(("127.0.0.1:1",))
    state.ready = True
    assert not state.worth_trying
    watch = asyncio.create_task(state.watch(ask))
    await eventually(lambda: state.worth_trying)
    away = True
    await eventually(lambda: state.problem == "ConnectionError: nobody there")
    assert not state.worth_trying
    away = False
    await eventually(lambda: state.problem is None)
    watch.cancel()


def test_nothing_is_worth_trying_without_a_producer() -> None:
    state = BrokerState(("127.0.0.1:1",))
    state.taken()
    assert not state.worth_trying
