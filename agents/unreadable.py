"""Events that cannot be read, in messages that can: each becomes a dead letter of its own and costs no other event.

Batches are read with their events as bytes (docs/adr/0031). Boost itself writes no such event. One that stands in a
message all the same stays `pending` in PostgreSQL, if it is there, and the sweeper publishes it again from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agents.streams import Taken
from boost_streams.records import Malformed


class Unreadable:
    """Collects the events of some messages that cannot be read."""

    def __init__(self, taken: Sequence[Taken]) -> None:
        self._taken = taken
        self._found: list[tuple[msgspec.Raw, str]] = []

    def add(self, event: msgspec.Raw, error: msgspec.DecodeError) -> None:
        """Note one of their events and why it cannot be read."""
        self._found.append((event, str(error)))

    def malformed(self) -> list[Malformed]:
        """Return what was noted as messages of their own, where the messages stood that held them."""
        return [
            Malformed(message.topic, message.partition, message.offset, error, bytes(event))
            for event, error in self._found
            for message in self._taken
            if any(held is event for held in getattr(message.value, "events", ()))
        ]
