"""Which messages this worker has dealt with, per partition: what may be committed, and how far consumers are.

Faust takes an offset that it did not hand on for one that does not exist, and commits over it (FAUST.md: during a
rebalance it drops messages on their way to an agent). Our topics have no such gaps: every offset from the first on
is a message. So a partition's offset is committed only up to its frontier, below which every message was
acknowledged by our own loops; a message that was dropped is read again.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

_LONG_AGO = dt.datetime.fromtimestamp(0, dt.UTC)


@dataclass(slots=True)
class _Partition:
    frontier: int = 0
    acknowledged: set[int] = field(default_factory=set)
    in_hand: dict[int, dt.datetime | None] = field(default_factory=dict)
    last_passed: dt.datetime | None = None
    hole: int | None = None

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

    def observe(self, topic: str, partition: int, *, committed: int | None, beginning: int, end: int) -> int | None:
        """Take in where the broker stands; return the offset to read again when a message was dropped.

        Args:
            topic: The topic's name.
            partition: Its partition.
            committed: The consumer group's committed offset, if any.
            beginning: The first offset the broker still has.
            end: The offset after its last one.
        """
        state = self._of(topic, partition)
        if end < state.frontier:
            # The topic was made anew, empty: what was known of the old one says nothing of this one.
            self._partitions[topic, partition] = _Partition(frontier=beginning)
            return None
        state.advance(max(beginning, committed or 0))
        dropped = bool(state.acknowledged) and state.frontier not in state.in_hand
        seen_before, state.hole = state.hole, state.frontier if dropped else None
        return state.frontier if dropped and seen_before == state.frontier else None

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
