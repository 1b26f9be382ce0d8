"""The dispatcher: splits each batch by handler family and forwards one `HandlerBatch` per family."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from agents.dead_letters import DeadLetters
from agents.progress import ConsumerProgress
from agents.registry import Registry
from agents.streams import acknowledge, ready_batches
from boost_streams.errors import BrokerAway
from boost_streams.logs import get_logger
from boost_streams.publishing import Publisher
from boost_streams.records import EventRecord, HandlerBatch, RawEventBatch

#: About how many events the dispatcher takes at a time, and how long after the last time (seconds) under load.
MOST_EVENTS = 4000
PACE_SECONDS = 0.01
#: What one forwarded message holds at most: events, and bytes of payload. One batch is never cut.
MOST_EVENTS_FORWARDED = 1000
MOST_BYTES_FORWARDED = 512 * 1024
#: The longest pause between two tries to forward (seconds).
_LONGEST_PAUSE = 2.0

_log = get_logger(__name__)


def split_by_family(batch: RawEventBatch, registry: Registry) -> list[HandlerBatch]:
    """Return one batch per handler family, families in order of their names, events in their order."""
    by_family: dict[str, list[EventRecord]] = defaultdict(list)
    for event in batch.events:
        by_family[registry.family_of(event.event_type)].append(event)
    return [
        HandlerBatch(batch.batch_id, batch.committed_at, batch.published_at, family, events)
        for family, events in sorted(by_family.items())
    ]


def merge(batches: Sequence[HandlerBatch]) -> list[HandlerBatch]:
    """Put together batches of the same family, as far as they fit into one message.

    A merged batch bears the id of its first; it was published when the earliest of them was, so that none of them is
    thought to have been passed while it is under way.
    """
    merged: list[HandlerBatch] = []
    open_at: dict[str, tuple[int, int]] = {}
    for batch in batches:
        size = sum(len(event.payload) for event in batch.events)
        position, held = open_at.get(batch.handler, (-1, 0))
        into = merged[position] if position >= 0 else None
        if (
            into is None
            or len(into.events) + len(batch.events) > MOST_EVENTS_FORWARDED
            or held + size > MOST_BYTES_FORWARDED
        ):
            open_at[batch.handler] = (len(merged), size)
            merged.append(batch)
            continue
        open_at[batch.handler] = (position, held + size)
        merged[position] = msgspec.structs.replace(
            into,
            committed_at=min(into.committed_at, batch.committed_at),
            published_at=min(into.published_at, batch.published_at),
            events=[*into.events, *batch.events],
        )
    return merged


class Dispatcher:
    """Takes from `raw-events`, forwards to the families' topics, acknowledges what was delivered."""

    def __init__(
        self,
        registry: Registry,
        publishers: dict[str, Publisher],
        dead_letters: DeadLetters,
        progress: ConsumerProgress,
    ) -> None:
        self._registry = registry
        self._publishers = publishers
        self._dead_letters = dead_letters
        self._progress = progress

    async def run(self, stream: Any) -> None:
        """Forward until cancelled."""
        weight = lambda value: len(getattr(value, "events", ()))  # noqa: E731
        async for taken in ready_batches(stream, self._progress, most=MOST_EVENTS, weight=weight, pace=PACE_SECONDS):
            await self.forward([message.value for message in taken])
            await acknowledge(taken, self._progress)

    async def forward(self, values: list[Any]) -> None:
        """Deliver every family's batches, trying again until the broker has them."""
        split: list[HandlerBatch] = []
        for value in values:
            if isinstance(value, RawEventBatch):
                split.extend(split_by_family(value, self._registry))
            else:
                await self._dead_letters.malformed(value)
        pending = merge(split)
        pause = 0.05
        while pending:
            results = await asyncio.gather(
                *(self._publishers[batch.handler].send(batch) for batch in pending), return_exceptions=True
            )
            pending = [batch for batch, result in zip(pending, results, strict=True) if result is not None]
            for result in results:
                if isinstance(result, BaseException) and not isinstance(result, BrokerAway):
                    raise result
            if pending:
                _log.warning("not forwarded yet", action="dispatch_wait", count=len(pending))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
