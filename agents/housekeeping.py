"""What every worker does beside its roles: heartbeat, progress, what dead workers left, counters, partitions, keys.

Every body is guarded: a raising task would end the process, and with it acknowledge work in flight (FAUST.md).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mode import Service

from boost_streams.errors import BoostError
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from boost_streams.settings import Settings
from db.intake import swap_key_generations_across_projects
from db.journey import forget_publishes_across_projects
from db.partitions import drop_expired_partitions, ensure_partitions
from db.pool import Database
from db.retention import delete_expired_events_across_projects, delete_expired_letters_across_projects
from db.rollups import fold_across_projects
from db.server import server_facts
from db.workers import (
    DEAD_AFTER_SECONDS,
    bury_dead_workers_across_projects,
    heartbeat_across_projects,
    leave_across_projects,
    record_progress_across_projects,
)

#: How often a worker says that it is alive, and how far its consumers are (seconds).
HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 1.0
#: How often partitions and key generations are looked after (seconds), and how soon again after a failure.
MAINTENANCE_SECONDS = 3600.0
#: How often a worker looks whether what settlements counted is to be folded (seconds); one worker does it.
FOLD_SECONDS = 1.0
_MAINTENANCE_RETRY_SECONDS = 5.0

_log = get_logger(__name__)

Positions = Callable[[], Awaitable[list[tuple[str, int, Any]] | None]]


class Housekeeping(Service):
    """Opens the database and keeps this worker known to the others."""

    logger = logging.getLogger(__name__)

    def __init__(
        self,
        settings: Settings,
        database: Database,
        ledger: Ledger,
        positions: Positions,
        refuse: Callable[[], None],
        also: Sequence[tuple[float, str, Callable[[], Awaitable[None]]]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._database = database
        self._ledger = ledger
        self._positions = positions
        #: Ends the process: in production a server that loses what it acknowledged is not worked with.
        self._refuse = refuse
        #: What others want done every so many seconds, under an action's name.
        self._also = also
        self._beating_since: float | None = None
        self.opened = asyncio.Event()

    async def on_start(self) -> None:
        """Try to open the database once; when it is away the worker starts all the same and goes on trying."""
        await self._open()

    async def _open(self) -> bool:
        try:
            await self._database.open()
        except BoostError as error:
            _log.warning("waiting for PostgreSQL", action="database_wait", error=error.message)
            return False
        await self._refuse_what_loses_events()
        self.opened.set()
        return True

    async def _refuse_what_loses_events(self) -> None:
        """Look at what the server does with a commit before anything is committed: it may have to outlive a crash."""
        try:
            async with self._database.across_projects() as connection:
                problem = (await server_facts(connection)).durability_problem
        except BoostError as error:
            _log.warning("durability not known", action="durability", error=error.message)
            return
        if problem is None:
            return
        if self._settings.production:
            _log.error("PostgreSQL would lose accepted events: not starting", action="durability", error=problem)
            self._refuse()
        _log.warning("PostgreSQL may lose accepted events", action="durability", error=problem)

    @Service.task
    async def _stay_alive(self) -> None:
        while not self.opened.is_set() and not self.should_stop:
            await self.sleep(0.5)
            await self._open()
        self.add_future(self._every(HEARTBEAT_SECONDS, "heartbeat", self.beat))
        self.add_future(self._every(PROGRESS_SECONDS, "progress", self.record_progress))
        self.add_future(self._every(FOLD_SECONDS, "fold", self.fold))
        for seconds, action, body in self._also:
            self.add_future(self._every(seconds, action, body))
        await self._maintain()

    async def _every(self, seconds: float, action: str, body: Callable[[], Awaitable[None]]) -> None:
        while not self.should_stop:
            await self._guarded(action, body)
            await self.sleep(seconds)

    async def _maintain(self) -> None:
        while not self.should_stop:
            done = await self._guarded("maintenance", self.maintain)
            await self.sleep(MAINTENANCE_SECONDS if done else _MAINTENANCE_RETRY_SECONDS)

    async def _guarded(self, action: str, body: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with asyncio.timeout(60):
                await body()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._beating_since = None if action == "heartbeat" else self._beating_since
            _log.warning("housekeeping failed; it goes on", action=action, error=f"{type(error).__name__}: {error}")
            return False
        return True

    async def beat(self) -> None:
        """Record the heartbeat and bury the dead.

        Only a worker whose own heartbeat never paused for long enough judges others: after an outage of PostgreSQL
        everybody looks dead.
        """
        async with self._database.across_projects() as connection:
            await heartbeat_across_projects(
                connection,
                self._ledger.worker_id,
                self._ledger.host,
                self._ledger.url,
                self._ledger.roles,
                self._ledger.published_seq,
                self._ledger.handlers,
            )
            now = time.monotonic()
            self._beating_since = self._beating_since or now
            if now - self._beating_since < DEAD_AFTER_SECONDS - HEARTBEAT_SECONDS:
                return
            for worker_id, released in (await bury_dead_workers_across_projects(connection)).items():
                _log.warning("a worker died", action="worker_dead", dead_worker_id=str(worker_id), count=released)

    async def record_progress(self) -> None:
        """Record how far this worker's consumers are; says nothing when it does not know."""
        positions = await self._positions()
        if positions:
            async with self._database.across_projects() as connection:
                await record_progress_across_projects(connection, self._ledger.worker_id, positions)

    async def fold(self) -> None:
        """Fold what settlements counted into rollups (docs/adr/0024)."""
        async with self._database.across_projects() as connection:
            await fold_across_projects(connection)

    async def maintain(self) -> None:
        """Make partitions ahead, drop what has expired, and renew the messageId keys when it is time."""
        await ensure_partitions(self._database)
        await drop_expired_partitions(self._database, self._settings.retention_days)
        async with self._database.across_projects() as connection:
            for project_id, count in (await delete_expired_events_across_projects(connection)).items():
                _log.info("expired events deleted", action="events_expire", project_id=str(project_id), count=count)
            await forget_publishes_across_projects(connection)
            if count := await delete_expired_letters_across_projects(connection, self._settings.retention_days):
                _log.info("expired dead letters deleted", action="letters_expire", count=count)
            if await swap_key_generations_across_projects(connection, self._settings.idempotency_days):
                _log.info("messageId keys swapped", action="keys_swap")

    async def leave(self) -> None:
        """Take this worker off the list; what it could not account for is released to the others."""
        if not self.opened.is_set():
            return
        async with asyncio.timeout(2), self._database.across_projects() as connection:
            await leave_across_projects(connection, self._ledger.worker_id, self._ledger.published_seq)
