"""Asks the broker where the consumer group stands, for the progress that the sweeper reads."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Collection
from typing import Any

from agents.progress import ConsumerProgress
from boost_streams.logs import get_logger

#: How long the broker may take to say its offsets (seconds).
_OFFSETS_SECONDS = 5.0
#: A consumer that does not answer for so long, while the broker does, will not do so again (seconds).
STALLED_SECONDS = 20.0

_log = get_logger(__name__)

Position = tuple[str, int, dt.datetime | None]


class ConsumerPositions:
    """The positions of this worker's consumer on the topics that a batch passes through."""

    def __init__(
        self,
        app: Any,
        progress: ConsumerProgress,
        topics: Collection[str],
        broker_there: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._progress = progress
        self._topics = frozenset(topics)
        self._broker_there = broker_there
        self._clock = clock
        self._silent_since: float | None = None

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
        known = {tp: self._known(tp) for tp in assignment}
        try:
            async with asyncio.timeout(_OFFSETS_SECONDS):
                beginnings = await app.consumer.earliest_offsets(*assignment)
                ends = await app.consumer.highwaters(*assignment)
        except TimeoutError:
            self._not_answered()
            raise
        self._silent_since = None
        if not self.assigned():
            return None
        positions: list[Position] = []
        for tp in assignment:
            if ends[tp] < known[tp]:
                self._forget(tp)
            committed = app.consumer._committed_offset.get(tp)
            dropped = self._progress.observe(
                tp.topic, tp.partition, committed=committed, beginning=beginnings[tp], end=ends[tp], known=known[tp]
            )
            if dropped is not None:
                _log.warning("reading again", action="seek", topic=tp.topic, partition=tp.partition, offset=dropped)
                await app.consumer.seek(tp, dropped)
            positions.append((tp.topic, tp.partition, self._progress.position(tp.topic, tp.partition, end=ends[tp])))
        return positions

    async def read_again(self, topic: str) -> None:
        """Go back, on this worker's partitions of a topic, to the first message that is not dealt with."""
        for tp in self._app.consumer.assignment() if self.assigned() else ():
            _, end = self._progress.standing(tp.topic, tp.partition)
            if tp.topic == topic and end is not None:  # else the frontier is not known yet, and nothing was given back
                await self._app.consumer.seek(tp, self._progress.frontier(tp.topic, tp.partition))

    def _known(self, tp: Any) -> int:
        """Return the offset below which, for all that this worker knows, messages were on a partition."""
        committed: int | None = self._app.consumer._committed_offset.get(tp)
        return max(self._progress.frontier(tp.topic, tp.partition), committed or 0)

    def _forget(self, tp: Any) -> None:
        """Have Faust forget where it was on a topic that was made anew: it would drop all messages up to there."""
        _log.warning("a topic was made anew", action="topic_anew", topic=tp.topic, partition=tp.partition)
        consumer = self._app.consumer
        for offsets in (consumer._committed_offset, consumer._acked, consumer._acked_index, consumer._gap):
            offsets.pop(tp, None)

    def _not_answered(self) -> None:
        if not self._broker_there():
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()

    @property
    def stalled(self) -> bool:
        """Tell whether the consumer has not answered for `STALLED_SECONDS` though the broker does.

        Its heartbeats may go on all the same, so that nobody else gets its partitions.
        """
        return self._silent_since is not None and self._clock() - self._silent_since >= STALLED_SECONDS

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
