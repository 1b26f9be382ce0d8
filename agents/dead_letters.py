"""Writes dead letters: messages that cannot be read, and what the topic says of events that failed for good.

The letters of events are in the table `dead_letters`, written with the move to `failed` (agents/settlement.py).
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import Callable, Sequence

import asyncpg

from agents.payload_fields import clean_text
from boost_streams.errors import BrokerAway, Unavailable
from boost_streams.logs import get_logger
from boost_streams.metrics import MESSAGES_MALFORMED
from boost_streams.publishing import Publisher
from boost_streams.records import DeadLetter, Malformed
from db.burial import MALFORMED, MOST_KEPT_BYTES, Origin, bury_message_across_projects
from db.pool import Database

#: The longest pause between two tries (seconds).
_LONGEST_PAUSE = 2.0

_log = get_logger(__name__)


class DeadLetters:
    """Sends to `events.dead-letter`. What cannot be sent is logged: PostgreSQL still has the event.

    A message that cannot be read is nowhere else: it is sent, and kept in the table `dead_letters`, before it is passed
    by.
    """

    def __init__(self, publisher: Publisher, database: Database, now: Callable[[], dt.datetime]) -> None:
        self._publisher = publisher
        self._database = database
        self._now = now

    async def malformed(self, message: Malformed) -> None:
        """Write a message that could not be decoded, with its topic, partition, offset and error."""
        MESSAGES_MALFORMED.labels(topic=message.topic).inc()
        where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        _log.error("a message could not be read", action="dead_letter", error=message.error, **where)
        kept = base64.b64encode(message.raw[:MOST_KEPT_BYTES]).decode()
        await self._deliver(
            DeadLetter(reason=MALFORMED, error=message.error, at=self._now(), message_base64=kept, **where)  # type: ignore[arg-type]
        )
        await self._keep(message)

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

    async def _keep(self, message: Malformed) -> None:
        """Write the message to the table, waiting while PostgreSQL is away; what it refuses is on the topic anyway."""
        origin = Origin(message.topic, message.partition, message.offset)
        pause = 0.1
        while True:
            try:
                async with self._database.across_projects() as connection:
                    return await bury_message_across_projects(
                        connection, origin, message.raw, clean_text(message.error)
                    )
            except Unavailable as error:
                _log.warning("a dead letter waits", action="dead_letter", topic=message.topic, error=error.message)
            except asyncpg.PostgresError as error:
                name = type(error).__name__
                _log.error("a dead letter was refused", action="dead_letter", topic=message.topic, error=name)
                return None
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Send dead letters of events; when the broker is away, log which could not be sent first, and how many."""
        results = await asyncio.gather(*map(self._send, letters), return_exceptions=True)
        unsent = [(letter, error) for letter, error in zip(letters, results, strict=True) if error is not None]
        if unsent:
            letter, error = unsent[0]
            _log.error(
                "dead letters could not be sent",
                action="dead_letter",
                count=len(unsent),
                topic=letter.topic,
                partition=letter.partition,
                offset=letter.offset,
                event_id=letter.event_id and str(letter.event_id),
                error=getattr(error, "message", type(error).__name__),
            )

    async def _send(self, letter: DeadLetter) -> None:
        await self._publisher.send(letter, key=letter.project_id.bytes if letter.project_id else None)
