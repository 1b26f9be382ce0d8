"""Finds out which messages a worker died with in hand: the next one handles them with care.

Nothing is noted per batch. A worker notes once that it handles a partition (`partition_holders`) and takes the note
back when it stops in order. Who finds the note of a worker that is dead knows that its last messages may have killed
it, whatever the end was: a watch, the kernel, the machine. docs/adr/0015 has the trade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
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
    """What this worker took over from dead ones."""

    def __init__(self, database: Database, worker_id: UUID, progress: ConsumerProgress) -> None:
        self._database = database
        self._worker_id = worker_id
        self._progress = progress
        self._suspicions: dict[Partition, _Suspicion | None] = {}

    async def suspect(self, taken: Sequence[Taken]) -> Collection[Partition]:
        """Return the partitions of these messages that must be handled with care, waiting for PostgreSQL if need be."""
        known = self._suspicions
        partitions = {(message.topic, message.partition) for message in taken}
        if new := [partition for partition in partitions if partition not in known]:
            await self._take_over(new)
        suspects = [partition for partition in partitions if known.get(partition) is not None]
        return [partition for partition in suspects if not await self._is_over(partition, taken)]

    def renew(self, partitions: Collection[Partition]) -> None:
        """Say that an event of these partitions has just killed a process: others may follow."""
        self._suspicions.update((partition, _Suspicion()) for partition in partitions)

    def forget(self) -> None:
        """Ask again about every partition: they are being assigned anew."""
        self._suspicions.clear()

    async def _take_over(self, partitions: Collection[Partition]) -> None:
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
        for partition in partitions:
            self._suspicions[partition] = _Suspicion() if partition in suspects else None
        for topic, number in sorted(suspects):
            _log.warning(
                "a worker died with messages in hand; they are handled one event at a time",
                action="take_over",
                topic=topic,
                partition=number,
            )

    async def _is_over(self, partition: Partition, taken: Sequence[Taken]) -> bool:
        """Tell whether all that was in hand is committed to Kafka; note what these messages add to it."""
        suspicion = self._suspicions.get(partition)
        if suspicion is None:  # forgotten a moment ago, in a rebalance
            return False
        committed, end = self._progress.standing(*partition)
        if suspicion.until is None:
            suspicion.until = end
        if suspicion.until is not None and committed is not None and committed >= suspicion.until:
            self._suspicions[partition] = None
            await self._clear(partition)
            return True
        of_partition = [message for message in taken if (message.topic, message.partition) == partition]
        if suspicion.events < MOST_IN_HAND:
            suspicion.events += sum(len(getattr(message.value, "events", ())) for message in of_partition)
            if suspicion.events >= MOST_IN_HAND:
                last = of_partition[-1].offset + 1
                suspicion.until = last if suspicion.until is None else min(suspicion.until, last)
        return False

    async def _clear(self, partition: Partition) -> None:
        try:
            async with self._database.across_projects() as connection:
                await clear_suspicion_across_projects(connection, self._worker_id, partition)
        except Unavailable as error:
            # Whoever takes it over next is careful for nothing.
            _log.info("a suspicion stays noted", action="take_over", topic=partition[0], error=error.message)
