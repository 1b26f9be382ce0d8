"""Sends what was committed to the broker, and tells the database what did not get there.

Nobody waits for it: a client has its answer already. What cannot be sent is left to the sweeper.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from uuid import UUID

from boost_streams import metrics
from boost_streams.errors import BoostError, Unavailable
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from boost_streams.publishing import Publisher
from boost_streams.records import OutgoingBatch
from db.batches import release_batches_across_projects
from db.pool import STATEMENT_SECONDS, Database

#: How many messages may be on their way to the broker; beyond it a batch is left to the sweeper.
MOST_PUBLISHES = 256
#: How long what could not be published waits before the database is told again (seconds).
_RELEASE_RETRY_SECONDS = 0.5
_MOST_RELEASED = 1000
#: A commit that was given up may be done all the same, when a server that was frozen goes on. So long after the server
#: answers again its batch is looked for (seconds): no statement takes longer, and a margin.
_MAY_COME_SECONDS = STATEMENT_SECONDS + 2.0

_log = get_logger(__name__)


class Outbox:
    """Publishes batches. Their numbers in the ledger are closed when the broker or the database knows of them."""

    def __init__(self, database: Database, publisher: Publisher, ledger: Ledger) -> None:
        self._database = database
        self._publisher = publisher
        self._ledger = ledger
        self._unpublished: dict[UUID, int] = {}
        self._may_come: dict[UUID, float] = {}
        self._loop: asyncio.Task[None] | None = None
        self.on_their_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the loop that tells the database what was not published."""
        self._loop = asyncio.create_task(self._release_loop())

    async def stop(self) -> None:
        """Stop. What was not published is known to the database, or found by another worker."""
        tasks = [*self.on_their_way, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self, batch: OutgoingBatch, seq: int) -> None:
        """Send a batch in the background, or leave it to the sweeper when the broker is away or slow."""
        if len(self.on_their_way) >= MOST_PUBLISHES or self._publisher.state.problem is not None:
            self.leave_to_sweeper(batch.batch_id, seq)
            return
        task = asyncio.create_task(self._send(batch, seq))
        self.on_their_way.add(task)
        task.add_done_callback(self.on_their_way.discard)

    def leave_to_sweeper(self, batch_id: UUID, seq: int, *, stored: bool = True) -> None:
        """Have the database told, soon, that a batch is not on the broker; repeatedly where it may not be stored."""
        self._unpublished[batch_id] = seq
        if not stored:
            self._may_come[batch_id] = math.inf
        metrics.BATCHES_RELEASED.inc()

    async def release(self) -> None:
        """Tell the database which batches are not on the broker, so that a sweeper publishes them.

        Raises:
            Unavailable: The database is away; they are kept and reported later.
        """
        waiting = dict(self._unpublished)
        while waiting:
            left = dict(itertools.islice(waiting.items(), _MOST_RELEASED))
            async with self._database.across_projects() as connection:
                found = await release_batches_across_projects(connection, sorted(left))
            now = time.monotonic()
            for batch_id, seq in left.items():
                del waiting[batch_id]
                until = self._may_come.get(batch_id, 0.0)
                if batch_id in found or until <= now:
                    self._unpublished.pop(batch_id, None)
                    self._may_come.pop(batch_id, None)
                    self._ledger.close(seq)
                elif until == math.inf:
                    self._may_come[batch_id] = now + _MAY_COME_SECONDS
            if found:
                _log.info("batches left to the sweeper", action="outbox_release", count=len(found))

    async def _send(self, batch: OutgoingBatch, seq: int) -> None:
        batch_id = batch.batch_id
        sending = self._publisher.send(batch)
        del batch  # it is bytes before it is waited for: its memory is free for the next one meanwhile
        try:
            await sending
        except BaseException as error:
            self.leave_to_sweeper(batch_id, seq)
            if not isinstance(error, BoostError):
                raise
        else:
            self._ledger.close(seq)
            metrics.BATCHES_PUBLISHED.labels(by="intake").inc()

    async def _release_loop(self) -> None:
        while True:
            await asyncio.sleep(_RELEASE_RETRY_SECONDS)
            try:
                await self.release()
            except Unavailable:
                continue
            except Exception as error:
                _log.exception("batches not released yet", action="outbox_release", error=type(error).__name__)
