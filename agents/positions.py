"""Asks the broker where the consumer group stands, for the progress that the sweeper reads."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Collection
from typing import Any

from agents.progress import ConsumerProgress
from boost_streams.logs import get_logger

#: How long the broker may take to say its offsets (seconds).
_OFFSETS_SECONDS = 5.0

_log = get_logger(__name__)

Position = tuple[str, int, dt.datetime | None]


class ConsumerPositions:
    """The positions of this worker's consumer on the topics that a batch passes through."""

    def __init__(self, app: Any, progress: ConsumerProgress, topics: Collection[str]) -> None:
        self._app = app
        self._progress = progress
        self._topics = frozenset(topics)

    async def __call__(self) -> list[Position] | None:
        """Return topic, partition and the oldest publish time not dealt with; None when nobody can know.

        While a rebalance is under way or the broker does not answer nothing is said, and the sweeper then takes
        nothing for stuck.
        """
        app = self._app
        if not self.assigned():
            return None
        assignment = [tp for tp in app.consumer.assignment() if tp.topic in self._topics]
        self._progress.keep_only({(tp.topic, tp.partition) for tp in assignment})
        known = {tp: self._progress.frontier(tp.topic, tp.partition) for tp in assignment}
        async with asyncio.timeout(_OFFSETS_SECONDS):
            beginnings = await app.consumer.earliest_offsets(*assignment)
            ends = await app.consumer.highwaters(*assignment)
        if not self.assigned():
            return None
        positions: list[Position] = []
        for tp in assignment:
            committed = app.consumer._committed_offset.get(tp)
            dropped = self._progress.observe(
                tp.topic, tp.partition, committed=committed, beginning=beginnings[tp], end=ends[tp], known=known[tp]
            )
            if dropped is not None:
                _log.warning("reading again", action="seek", topic=tp.topic, partition=tp.partition, offset=dropped)
                await app.consumer.seek(tp, dropped)
            positions.append((tp.topic, tp.partition, self._progress.position(tp.topic, tp.partition, end=ends[tp])))
        return positions

    def assigned(self) -> bool:
        """Tell whether the consumer has its partitions and no rebalance is under way."""
        app = self._app
        return bool(
            app.started
            and not app.should_stop
            and not app.rebalancing
            and app.tables.recovery.completed.is_set()
            and app.consumer.assignment()
        )
