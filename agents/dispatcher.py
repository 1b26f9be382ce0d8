"""The dispatcher: splits what is there by handler family and forwards one `HandlerBatch` per family."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from agents.dead_letters import DeadLetters
from agents.postponing import Postponing
from agents.progress import ConsumerProgress
from agents.registry import Registry
from agents.streams import Taken, acknowledge, in_two_stages, ready_batches
from agents.takeovers import Takeovers
from agents.unreadable import Unreadable
from boost_streams.errors import BrokerAway
from boost_streams.giving_way import GivingWay
from boost_streams.logs import get_logger
from boost_streams.pace import Pace
from boost_streams.publishing import Publisher
from boost_streams.records import Malformed, Newer, Routing, UnreadBatch, UnreadHandlerBatch

#: About how many events the dispatcher takes at a time.
MOST_EVENTS = 4000
#: Up to how many events, and bytes of their messages, are forwarded as one message per family when more than one
#: batch is there: Faust's cost is per message (FAUST.md). A bigger batch travels alone, as it came.
MOST_TOGETHER = 2000
MOST_BYTES_TOGETHER = 1024 * 1024
#: The longest pause between two tries to forward (seconds).
_LONGEST_PAUSE = 2.0

_log = get_logger(__name__)
_routing_decoder = msgspec.json.Decoder(Routing)


def split_by_family(
    batches: Sequence[UnreadBatch],
    registry: Registry,
    unreadable: Callable[[msgspec.Raw, msgspec.DecodeError], None] = lambda _, __: None,
    *,
    suspect: bool = False,
) -> list[UnreadHandlerBatch]:
    """Return one batch per handler family, families in order of their names, events in their order, byte for byte.

    `suspect` says that all of them are; each of the batches may say so of itself. An event of which not even the type
    can be read goes to `unreadable` and nowhere else.
    """
    by_family: dict[str, list[msgspec.Raw]] = defaultdict(list)
    routing, family_of = _routing_decoder.decode, registry.family_of
    for batch in batches:
        for event in batch.events:
            try:
                by_family[family_of(routing(event).event_type)].append(event)
            except msgspec.DecodeError as error:
                unreadable(event, error)
            except (UnicodeDecodeError, RecursionError) as error:
                unreadable(event, msgspec.DecodeError(str(error)))
    first = min(batches, key=lambda batch: batch.published_at)
    suspect = suspect or any(batch.suspect for batch in batches)
    return [
        UnreadHandlerBatch(first.batch_id, first.committed_at, first.published_at, family, events, suspect=suspect)
        for family, events in sorted(by_family.items())
    ]


def together(taken: Sequence[Taken]) -> Iterator[list[UnreadBatch]]:
    """Yield the batches of these messages, as many at a time as may travel as one message per family."""
    batches: list[UnreadBatch] = []
    events = size = 0
    for message in taken:
        batch = message.value
        if batches and (events + len(batch.events) > MOST_TOGETHER or size + message.size > MOST_BYTES_TOGETHER):
            yield batches
            batches, events, size = [], 0, 0
        batches.append(batch)
        events += len(batch.events)
        size += message.size
    if batches:
        yield batches


class Dispatcher:
    """Takes from `raw-events`, forwards to the families' topics, acknowledges what was delivered."""

    def __init__(
        self,
        registry: Registry,
        publishers: dict[str, Publisher],
        dead_letters: DeadLetters,
        progress: ConsumerProgress,
        postponing: Postponing,
        takeovers: Takeovers,
        giving_way: GivingWay | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._giving_way = giving_way or GivingWay()
        self._pace = pace or Pace()
        self._postponing = postponing
        self._takeovers = takeovers
        self._registry = registry
        self._publishers = publishers
        self._dead_letters = dead_letters
        self._progress = progress

    async def run(self, stream: Any) -> None:
        """Forward until cancelled."""
        weight = lambda value: len(getattr(value, "events", ()))  # noqa: E731
        batches = ready_batches(
            stream,
            self._progress,
            most=MOST_EVENTS,
            weight=weight,
            apart=self._pace.between_lists,
            rest_after=self._giving_way.rest_after,
        )
        await in_two_stages(batches, self.split, self._forward_and_acknowledge)

    async def split(self, taken: Sequence[Taken]) -> list[UnreadHandlerBatch]:
        """Return what these messages are forwarded as; those that cannot be read are dealt with."""
        await self._postponing.postpone([message.value for message in taken if isinstance(message.value, Newer)])
        for message in taken:
            if isinstance(message.value, Malformed):
                await self._dead_letters.malformed(message.value)
        # What a dead worker had read from here it may have forwarded and died of: it may come to any partition again.
        suspect = await self._takeovers.careful(taken)
        readable = [message for message in taken if isinstance(message.value, UnreadBatch)]
        unreadable = Unreadable(readable)
        split = [
            batch
            for batches in together(readable)
            for batch in split_by_family(batches, self._registry, unreadable.add, suspect=suspect)
        ]
        for malformed in unreadable.malformed():
            await self._dead_letters.malformed(malformed)
        return split

    async def _forward_and_acknowledge(self, taken: list[Taken], batches: list[UnreadHandlerBatch]) -> None:
        await self.forward(batches)
        await acknowledge(taken, self._progress)

    async def forward(self, pending: list[UnreadHandlerBatch]) -> None:
        """Deliver every family's batches, trying again until the broker has them."""
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
