"""Sends records of a newer release back for later: while two releases run side by side, each gets the other's messages.

Nothing of such a record is understood but the keys of its events, which no release changes. What owns these events is
marked as not published, due after a pause. This worker's sweeper publishes them again before that, from PostgreSQL and
in its own version, which every worker reads; after a few times any sweeper does, when they are due. The message itself
is acknowledged, so that its partition goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import asyncpg

from boost_streams.errors import Unavailable
from boost_streams.event_id import batch_of
from boost_streams.logs import get_logger
from boost_streams.metrics import MESSAGES_POSTPONED
from boost_streams.records import Newer
from db.pool import Database
from db.postponing import postpone_across_projects

#: The pause before events are published again (seconds): doubled each time from the first to the longest.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
#: The longest pause between two tries while PostgreSQL is away (seconds).
_LONGEST_WAIT = 2.0

_log = get_logger(__name__)


class Postponing:
    """Hands the events of newer records back to the sweepers."""

    def __init__(self, database: Database, sent_back: Callable[[Iterable[UUID]], None]) -> None:
        self._database = database
        #: Takes the batches that are sent back: this worker's own sweeper publishes them first, in a version that
        #: every worker reads; a sweeper of the newer release would send what was sent before.
        self._sent_back = sent_back

    async def postpone(self, records: Sequence[Newer]) -> None:
        """Have the events of these records published again later. Waits while PostgreSQL is away; never raises."""
        for record in records:
            MESSAGES_POSTPONED.labels(topic=record.topic).inc()
            _log.info(
                "a newer release wrote this; it goes back for later",
                action="postpone",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                schema_version=record.schema_version,
                count=len(record.events),
            )
        events = [event for record in records for event in record.events]
        batches = sorted({batch_of(event.id) for event in events if event.attempt == 0})
        retries = sorted({(event.project_id, event.id) for event in events if event.attempt > 0})
        wait = 0.05
        while batches or retries:
            try:
                async with self._database.across_projects() as connection:
                    await postpone_across_projects(
                        connection, batches, retries, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
                    )
                self._sent_back(batches)
                return
            except (Unavailable, asyncpg.PostgresError) as error:
                _log.warning("postponing waits for PostgreSQL", action="postpone", error=type(error).__name__)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
