"""Sends records of a newer release back for later: while two releases run side by side, each gets the other's messages.

Nothing of such a record is understood but the keys of its events, which no release changes. What owns these events is
marked as not published, due after a pause: a sweeper, of whichever release, publishes them again from PostgreSQL in its
own version, to whichever worker comes by. The message itself is acknowledged, so that its partition goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

from boost_streams.errors import Unavailable
from boost_streams.event_id import batch_of
from boost_streams.logs import get_logger
from boost_streams.metrics import MESSAGES_POSTPONED
from boost_streams.records import Newer
from db.batches import postpone_across_projects
from db.pool import Database

#: The pause before events are published again (seconds): doubled each time from the first to the longest.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
#: The longest pause between two tries while PostgreSQL is away (seconds).
_LONGEST_WAIT = 2.0

_log = get_logger(__name__)


class Postponing:
    """Hands the events of newer records back to the sweepers."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
                return
            except (Unavailable, asyncpg.PostgresError) as error:
                _log.warning("postponing waits for PostgreSQL", action="postpone", error=type(error).__name__)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
