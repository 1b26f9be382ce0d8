"""Finds out which messages a worker died with in hand: the next one handles them with care.

Nothing is noted per batch. A worker notes once that it handles a partition (`partition_holders`) and takes the note
back when it stops in order. Who finds the note of a worker that is dead knows that its last messages may have killed
it, whatever the end was: a watch, the kernel, the machine. docs/adr/0015 has the trade. What comes again on partitions
that nobody took over says by itself that it is suspect (docs/adr/0027).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from agents.progress import ConsumerProgress
from agents.streams import Taken
from boost_streams.errors import Unavailable
from boost_streams.logs import get_logger
from db.holders import Partition, clear_suspicion_across_projects, take_over_across_projects
from db.pool import Database

#: Of how many events of a partition a dead worker may have had some in hand at most, and so how many are handled with
#: care: two batches in hand, and what was acknowledged and not yet committed to Kafka.
MOST_IN_HAND = 10_000
#: The longest pause while PostgreSQL is away (seconds).
_LONGEST_PAUSE = 2.0

_log = get_logger(__name__)


@dataclass(slots=True)
class _Suspicion:
    """What is to be handled with care of one partition: up to an offset that is known once enough has passed."""

    events: int = 0
    until: int | None = None


class Takeovers:
    """What this worker took over from dead ones. `assigned` says which partitions are this worker's."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        progress: ConsumerProgress,
        assigned: Callable[[], Collection[Partition]],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._progress = progress
        self._assigned = assigned
        self._held: set[Partition] = set()
        self._suspicions: dict[Partition, _Suspicion] = {}

    async def careful(self, taken: Sequence[Taken]) -> bool:
        """Tell whether these messages of one topic are to be handled with care, waiting for PostgreSQL if need be.

        They are while any partition of the topic may hold what a worker died of.
        """
        topic = taken[0].topic
        partitions = {(topic, message.partition) for message in taken}
        if not partitions <= self._held:
            await self._take_over(topic, partitions)
        if self._suspicions:
            for partition in [one for one in self._suspicions if one[0] == topic]:
                await self._look(partition, [message for message in taken if message.partition == partition[1]])
        return any(one[0] == topic for one in self._suspicions)

    def forget(self) -> None:
        """Ask again about every partition: they are being assigned anew."""
        self._held.clear()
        self._suspicions.clear()

    async def _take_over(self, topic: str, partitions: Collection[Partition]) -> None:
        """Note that this worker has all partitions of a topic that are assigned to it, and see who had them before."""
        partitions = {*partitions, *(one for one in self._assigned() if one[0] == topic)}
        pause = 0.05
        while True:
            try:
                async with self._database.across_projects() as connection:
                    suspects = await take_over_across_projects(connection, self._worker_id, partitions)
                break
            except Unavailable as error:
                _log.warning("taking over waits for PostgreSQL", action="take_over_wait", error=error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        self._held |= partitions
        self._suspicions.update((partition, _Suspicion()) for partition in suspects)
        if suspects:
            _log.warning(
                "a worker died with messages in hand; events are handled one at a time for a while",
                action="take_over",
                topic=topic,
                count=len(suspects),
            )

    async def _look(self, partition: Partition, taken: Sequence[Taken]) -> None:
        """Drop the suspicion once all that was in hand is committed to Kafka; note what these messages add to it."""
        suspicion = self._suspicions.get(partition)
        if suspicion is None:  # forgotten a moment ago, in a rebalance
            return
        committed, end = self._progress.standing(*partition)
        if suspicion.until is None:
            suspicion.until = end
        if suspicion.until is not None and (committed or 0) >= suspicion.until:
            self._suspicions.pop(partition, None)
            await self._clear(partition)
        elif taken and suspicion.events < MOST_IN_HAND:
            suspicion.events += sum(len(getattr(message.value, "events", ())) for message in taken)
            if suspicion.events >= MOST_IN_HAND:
                last = taken[-1].offset + 1
                suspicion.until = last if suspicion.until is None else min(suspicion.until, last)

    async def _clear(self, partition: Partition) -> None:
        try:
            async with self._database.across_projects() as connection:
                await clear_suspicion_across_projects(connection, self._worker_id, partition)
        except Unavailable as error:
            # Whoever takes it over next is careful for nothing.
            _log.info("a suspicion stays noted", action="take_over", topic=partition[0], error=error.message)
