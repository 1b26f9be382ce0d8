"""Which of this worker's publishes are accounted for: the number that its heartbeat tells the others.

Every commit and every claim takes a number. It is accounted for once its messages are on the broker, or once the
database knows that they are not. What lies above `published_seq` when a worker dies is published again by another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


@dataclass(slots=True)
class Ledger:
    """The numbers of one worker process. `worker_id` is new for every process."""

    worker_id: UUID
    host: str
    url: str
    roles: tuple[str, ...]
    #: The version of each handler that this worker runs.
    handlers: dict[str, int] = field(default_factory=dict)
    _last: int = 0
    _open: set[int] = field(default_factory=set)

    def open(self) -> int:
        """Take the next number."""
        self._last += 1
        self._open.add(self._last)
        return self._last

    def close(self, seq: int) -> None:
        """Say that a number is accounted for. Saying it twice does no harm."""
        self._open.discard(seq)

    @property
    def published_seq(self) -> int:
        """Up to which number everything is accounted for."""
        return min(self._open) - 1 if self._open else self._last

    @property
    def open_count(self) -> int:
        """How many numbers are not accounted for yet."""
        return len(self._open)
