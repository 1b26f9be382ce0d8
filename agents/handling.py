"""The one loop that every handler agent runs: take, handle, settle, acknowledge."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from agents.burials import Origins
from agents.care import Care
from agents.dead_letters import DeadLetters
from agents.effects import Settled
from agents.failing_share import FailingShare
from agents.notices import SettledNotices
from agents.pauses import Pauses
from agents.postponing import Postponing
from agents.progress import ConsumerProgress
from agents.registry import Registry
from agents.settlement import Settlement, add_up
from agents.streams import Taken, acknowledge, give_back, in_two_stages, ready_batches
from boost_streams.events import Event
from boost_streams.giving_way import GivingWay
from boost_streams.outcomes import Failed
from boost_streams.pace import Pace
from boost_streams.records import DeadLetter, Malformed, Newer
from db.burial import Origin
from db.settlement import FirstAttempts

#: About how many events are handled and settled together.
MOST_EVENTS = 2000
#: For how many batches dead letters may be on their way to the broker; the next waits for one of them.
MOST_LETTERS = 4

_Handled = tuple[list[Settled], FirstAttempts | None]


class HandlerLoop:
    """Runs the handlers of one family over its topic."""

    def __init__(
        self,
        family: str,
        registry: Registry,
        settlement: Settlement,
        progress: ConsumerProgress,
        dead_letters: DeadLetters,
        notices: SettledNotices,
        care: Care,
        pauses: Pauses,
        failing: FailingShare,
        now: Callable[[], dt.datetime],
        postponing: Postponing,
        giving_way: GivingWay | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.family = family
        self._postponing = postponing
        self._registry = registry
        self._settlement = settlement
        self._progress = progress
        self._dead_letters = dead_letters
        self._notices = notices
        self._care = care
        self._pauses = pauses
        self._failing = failing
        self._now = now
        self._giving_way = giving_way or GivingWay()
        self._pace = pace or Pace()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, stream: Any) -> None:
        """Handle until cancelled."""
        weight = lambda value: len(getattr(value, "events", ()))  # noqa: E731
        batches = ready_batches(
            stream,
            self._progress,
            most=MOST_EVENTS,
            weight=weight,
            apart=self._pace.between_lists,
            rest_after=self._giving_way.rest_after,
        )
        await in_two_stages(batches, self.handle, self._settle_and_acknowledge)

    async def handle(self, taken: Sequence[Taken]) -> _Handled | None:
        """Handle the events of these messages and add up; messages that cannot be read are dealt with.

        Returns:
            None when the topic is paused, or has to be because of these events: then the messages were given back.
        """
        topic = taken[0].topic
        if await self._pauses.holds(topic):
            self._failing.reset()
            await give_back(taken, self._progress)
            return None
        await self._postponing.postpone([message.value for message in taken if isinstance(message.value, Newer)])
        for message in taken:
            if isinstance(message.value, Malformed):
                await self._dead_letters.malformed(message.value)
        settled = await self._care.outcomes(taken)
        added_up = await add_up(settled, self._registry)
        verdict = self._failing.observe(settled, added_up)
        if verdict is not None and await self._pauses.judge(topic, verdict):
            await give_back(taken, self._progress)
            return None
        return settled, added_up

    async def _settle_and_acknowledge(self, taken: list[Taken], handled: _Handled | None) -> None:
        if handled is None:
            return
        settled, added_up = handled
        if settled:
            origins = Origins(taken)
            moved = await self._settlement.settle(self.family, settled, added_up, origins)
            self._giving_way.settled(len(moved))
            # All moved, each with the outcome that was added up: entries that are the same object compare at once.
            whole = added_up if moved == settled else None
            self._notices.tell(moved, whole)
        await acknowledge(taken, self._progress)
        if settled and (whole is None or whole.errors):
            await self._send_letters(moved, origins)

    async def _send_letters(self, moved: Sequence[Settled], origins: Origins) -> None:
        """Tell the dead-letter topic which events failed, beside the next batches."""
        letters = [
            self._letter(one.event, one.outcome, origin)
            for one in moved
            if isinstance(one.outcome, Failed) and (origin := origins.of(one.event.id))
        ]
        if not letters:
            return
        while len(self._sending) >= MOST_LETTERS:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._dead_letters.write(letters))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _letter(self, event: Event, outcome: Failed, origin: Origin) -> DeadLetter:
        error = outcome.message if outcome.field is None else f"{outcome.field}: {outcome.message}"
        return DeadLetter(
            reason=outcome.code,
            error=error,
            topic=origin.topic,
            partition=origin.partition,
            offset=origin.offset,
            at=self._now(),
            project_id=event.project_id,
            event_id=event.id,
            event_type=event.event_type,
            handler=self._registry.handler_of(event.event_type).name,
            attempt=event.attempt,
        )
