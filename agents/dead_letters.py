"""Writes dead letters: messages that cannot be read, and events that failed for good."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Callable

from boost_streams.errors import BrokerAway
from boost_streams.logs import get_logger
from boost_streams.metrics import MESSAGES_MALFORMED
from boost_streams.publishing import Publisher
from boost_streams.records import DeadLetter, Malformed

#: How much of an unreadable message is kept (bytes).
MOST_KEPT_BYTES = 256 * 1024

#: The longest pause between two tries (seconds).
_LONGEST_PAUSE = 2.0

_log = get_logger(__name__)


class DeadLetters:
    """Sends to `events.dead-letter`. What cannot be sent is logged: PostgreSQL still has the event."""

    def __init__(self, publisher: Publisher, now: Callable[[], dt.datetime]) -> None:
        self._publisher = publisher
        self._now = now

    async def malformed(self, message: Malformed) -> None:
        """Write a message that could not be decoded, with its topic, partition, offset and error."""
        MESSAGES_MALFORMED.labels(topic=message.topic).inc()
        where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        _log.error("a message could not be read", action="dead_letter", error=message.error, **where)
        kept = base64.b64encode(message.raw[:MOST_KEPT_BYTES]).decode()
        await self._deliver(
            DeadLetter(reason="malformed", error=message.error, at=self._now(), message_base64=kept, **where)  # type: ignore[arg-type]
        )

    async def _deliver(self, letter: DeadLetter) -> None:
        """Send until the broker has it: the bytes of an unreadable message are nowhere else."""
        pause = 0.1
        while True:
            try:
                return await self._publisher.send(letter)
            except BrokerAway as error:
                _log.warning("a dead letter waits", action="dead_letter", topic=letter.topic, error=error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def write(self, letter: DeadLetter) -> None:
        """Send a dead letter; when the broker is away, log that it could not be."""
        try:
            await self._publisher.send(letter, key=letter.project_id.bytes if letter.project_id else None)
        except BrokerAway as error:
            _log.error(
                "a dead letter could not be sent",
                action="dead_letter",
                topic=letter.topic,
                partition=letter.partition,
                offset=letter.offset,
                event_id=letter.event_id and str(letter.event_id),
                error=error.message,
            )
