"""How far this worker's consumer is on each partition: what the sweeper measures "queued" against "stuck" by."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Partition:
    unacknowledged: OrderedDict[int, dt.datetime | None] = field(default_factory=OrderedDict)
    next_offset: int = 0
    last_passed: dt.datetime | None = None


class ConsumerProgress:
    """Records what was taken and acknowledged, per topic and partition."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], _Partition] = {}

    def took(self, topic: str, partition: int, offset: int, published_at: dt.datetime | None) -> None:
        """Note that a message is in hand; `published_at` is the database's time of the claim that sent it."""
        state = self._partitions.setdefault((topic, partition), _Partition())
        state.unacknowledged[offset] = published_at

    def acknowledged(self, topic: str, partition: int, offset: int) -> None:
        """Note that a message is dealt with."""
        state = self._partitions.setdefault((topic, partition), _Partition())
        published_at = state.unacknowledged.pop(offset, None)
        state.next_offset = max(state.next_offset, offset + 1)
        if published_at is not None:
            state.last_passed = published_at

    def keep_only(self, assigned: set[tuple[str, int]]) -> None:
        """Forget partitions that are no longer this worker's."""
        for key in [key for key in self._partitions if key not in assigned]:
            del self._partitions[key]

    @property
    def in_hand(self) -> int:
        """How many messages are taken and not acknowledged."""
        return sum(len(state.unacknowledged) for state in self._partitions.values())

    def position(self, topic: str, partition: int, *, committed: int, beginning: int, end: int) -> dt.datetime | None:
        """Return the publish time of the oldest message not dealt with; None says "caught up".

        Args:
            topic: The topic's name.
            partition: Its partition.
            committed: The consumer group's committed offset, 0 where there is none.
            beginning: The first offset the broker still has.
            end: The offset after the last one, asked of the broker after the last acknowledgement counted here.
        """
        state = self._partitions.get((topic, partition), _Partition())
        times = [time for time in state.unacknowledged.values() if time is not None]
        if times:
            return min(times)
        if not state.unacknowledged and max(state.next_offset, committed, beginning) >= end:
            return None
        return state.last_passed or dt.datetime.fromtimestamp(0, dt.UTC)
