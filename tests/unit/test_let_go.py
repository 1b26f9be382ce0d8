"""What is done with is let go of at once: memory that is free while the processor's cache has it costs less.

docs/adr/0031 says what that is worth.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec

from agents.calling import outcomes
from agents.handlers import load_registry
from agents.streams import in_two_stages
from boost_streams.ledger import Ledger
from boost_streams.publishing import BrokerState, Publisher
from boost_streams.records import EventRecord, OutgoingBatch
from tests.support.records import as_bytes
from web.outbox import Outbox

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


class Watched(list[Any]):
    """A list that can be watched until it is gone."""


def watched_events() -> tuple[list[Any], weakref.ref[Watched]]:
    events = Watched()
    return events, weakref.ref(events)


async def test_a_batch_is_gone_after_its_second_stage_though_nothing_comes_after_it() -> None:
    gone: list[weakref.ref[Watched]] = []
    ends: list[weakref.ref[Watched]] = []
    settled = asyncio.Event()

    async def batches() -> AsyncIterator[Any]:
        yield Watched()
        await asyncio.Event().wait()

    async def first(batch: Any) -> Any:
        gone.append(weakref.ref(batch))
        made = Watched()
        ends.append(weakref.ref(made))
        return made

    async def second(batch: Any, made: Any) -> None:
        settled.set()

    running = asyncio.create_task(in_two_stages(batches(), first, second))
    async with asyncio.timeout(5):
        await settled.wait()
        while [one for one in (*gone, *ends) if one() is not None]:
            await asyncio.sleep(0.001)
    running.cancel()


async def test_records_are_gone_while_their_bytes_wait_for_the_broker() -> None:
    delivery = asyncio.get_running_loop().create_future()
    sent = asyncio.Event()

    class Topic:
        async def send(self, *, key: bytes | None, value: OutgoingBatch) -> Any:
            sent.set()
            return delivery

    state = BrokerState(())
    state.taken()
    outbox = Outbox(None, Publisher(Topic(), state), Ledger(UUID(int=1), "here", "", ()))  # type: ignore[arg-type]
    events, kept = watched_events()
    outbox.publish(OutgoingBatch(UUID(int=1), NOON, NOON, events), 1)
    del events
    async with asyncio.timeout(5):
        await sent.wait()
        while kept() is not None:
            await asyncio.sleep(0.001)
    (task,) = outbox.on_their_way
    delivery.set_result(None)
    await task


async def test_an_event_that_was_handled_has_no_payload_any_more() -> None:
    payload = msgspec.Raw(b'{"url": "https://shop.example/", "title": "Shop"}')
    events = [EventRecord(UUID(int=n), UUID(int=9), "page_view", NOON, NOON, payload) for n in range(3)]
    settled = await outcomes(load_registry(), [as_bytes(event) for event in events], SimpleNamespace())
    assert [one.event.payload for one in settled] == [{}] * 3
    assert all(getattr(one.outcome, "effects", ()) for one in settled)
