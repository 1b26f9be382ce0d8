"""Which messages this worker has dealt with, per partition: what may be committed, and how far consumers are.

Faust takes an offset that it did not hand on for one that does not exist, and commits over it (FAUST.md: during a
rebalance it drops messages on their way to an agent). Our topics have no such gaps: every offset from the first on
is a message. So a partition's offset is committed only up to its frontier, below which every message was
acknowledged by our own loops; a message that was dropped is read again.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

#: A message that was not handed on is read again when it was missing at so many observations in a row.
OBSERVATIONS_BEFORE_SEEK = 3

_LONG_AGO = dt.datetime.fromtimestamp(0, dt.UTC)


@dataclass(slots=True)
class _Partition:
    frontier: int = 0
    acknowledged: set[int] = field(default_factory=set)
    in_hand: dict[int, dt.datetime | None] = field(default_factory=dict)
    last_passed: dt.datetime | None = None
    waited_at: int | None = None
    waited: int = 0
    committed: int | None = None
    end: int | None = None

    def advance(self, at_least: int = 0) -> None:
        if at_least > self.frontier:
            self.frontier = at_least
            self.acknowledged = {offset for offset in self.acknowledged if offset >= at_least}
        while self.frontier in self.acknowledged:
            self.acknowledged.remove(self.frontier)
            self.frontier += 1


class ConsumerProgress:
    """Records what was taken and acknowledged on the topics that a batch passes through."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], _Partition] = {}
        #: Set when the worker stops: nothing more is taken, what is in hand is finished.
        self.closed = False
        #: Partitions that were made anew, empty, since whoever has to know was told: what they held is gone.
        self.made_anew: set[tuple[str, int]] = set()
        #: Topics that are paused: nothing of them is fetched, and what was given back is not read again yet.
        self.held: set[str] = set()

    def _of(self, topic: str, partition: int) -> _Partition:
        return self._partitions.setdefault((topic, partition), _Partition())

    def took(self, topic: str, partition: int, offset: int, published_at: dt.datetime | None) -> None:
        """Note that a message is in hand; `published_at` is the database's time of the claim that sent it."""
        self._of(topic, partition).in_hand[offset] = published_at

    def acknowledged(self, topic: str, partition: int, offset: int) -> None:
        """Note that a message is dealt with."""
        state = self._of(topic, partition)
        published_at = state.in_hand.pop(offset, None)
        if published_at is not None:
            state.last_passed = published_at
        if offset >= state.frontier:
            state.acknowledged.add(offset)
            state.advance()

    def gave_back(self, topic: str, partition: int, offset: int) -> None:
        """Note that a message is no longer in hand and not dealt with either: it has to be read again."""
        self._of(topic, partition).in_hand.pop(offset, None)

    def holds(self, topic: str) -> bool:
        """Tell whether a topic is paused."""
        return topic in self.held

    def standing(self, topic: str, partition: int) -> tuple[int | None, int | None]:
        """Return the committed offset and the end of a partition, as the broker last said."""
        state = self._of(topic, partition)
        return state.committed, state.end

    def committable(self, topic: str, partition: int, committed: int | None) -> int | None:
        """Return the offset up to which everything was acknowledged, when it lies beyond what is committed."""
        state = self._of(topic, partition)
        state.advance(committed or 0)
        return state.frontier if state.frontier > (committed or 0) else None

    def keep_only(self, assigned: set[tuple[str, int]]) -> None:
        """Forget partitions that are no longer this worker's."""
        for key in [key for key in self._partitions if key not in assigned]:
            del self._partitions[key]

    @property
    def in_hand(self) -> int:
        """How many messages are taken and not acknowledged."""
        return sum(len(state.in_hand) for state in self._partitions.values())

    def frontier(self, topic: str, partition: int) -> int:
        """Return the offset below which every message was acknowledged, as far as this worker knows."""
        return self._of(topic, partition).frontier

    def observe(
        self, topic: str, partition: int, *, committed: int | None, beginning: int, end: int, known: int = 0
    ) -> int | None:
        """Take in where the broker stands; return the offset to read from again when a message was dropped.

        That is the first one when the topic was made anew: what is on it now begins at its beginning.

        Args:
            topic: The topic's name.
            partition: Its partition.
            committed: The consumer group's committed offset, if any.
            beginning: The first offset the broker still has.
            end: The offset after its last one.
            known: The frontier, or what is committed beyond it, as it stood before the broker was asked: it goes on
                while the answer travels.
        """
        state = self._of(topic, partition)
        if end < known:
            # The topic was made anew, empty: what was known of the old one says nothing of this one.
            self._partitions[topic, partition] = _Partition(frontier=beginning)
            self.made_anew.add((topic, partition))
            return beginning
        state.advance(max(beginning, committed or 0))
        state.committed, state.end = committed, end
        missing = topic not in self.held and state.frontier < end and state.frontier not in state.in_hand
        if not missing or state.waited_at != state.frontier:
            state.waited_at, state.waited = state.frontier, 0
            return None
        state.waited += 1
        if state.waited < OBSERVATIONS_BEFORE_SEEK:
            return None
        state.waited = 0
        return state.frontier

    def position(self, topic: str, partition: int, *, end: int) -> dt.datetime | None:
        """Return the publish time of the oldest message not dealt with; None says "caught up with `end`"."""
        state = self._of(topic, partition)
        if state.frontier >= end and not state.in_hand:
            return None
        times = [time for time in state.in_hand.values() if time is not None]
        if state.frontier in state.in_hand and times:
            return min(times)
        if state.acknowledged:
            return _LONG_AGO
        return min([*times, state.last_passed or _LONG_AGO])
