"""The sweeper: publishes again what got stuck, and only that.

Three kinds of work, all claimed in short transactions with `SKIP LOCKED`, so that any number of workers may sweep:

* what is known not to be on the broker (a publish that failed, a worker that died) and retries that are due: at once;
* what consumers have passed by and is still not settled after the threshold: at every tick;
* what is merely queued behind a backlog is left alone: consumers record how far they are on every partition.

Publishing spends nothing: an event's attempts are counted by its handler alone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import msgspec

from boost_streams.errors import BrokerAway, MessageTooLarge, Unavailable
from boost_streams.giving_way import GivingWay
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from boost_streams.metrics import BATCHES_PUBLISHED
from boost_streams.publishing import Publisher
from boost_streams.records import EventRecord, RawEventBatch
from db.batches import (
    NOTHING_PASSED,
    Claim,
    ClaimedBatch,
    claim_due_batches_across_projects,
    claim_due_retries_across_projects,
    release_claim_across_projects,
    release_published_across_projects,
)
from db.pool import Connection, Database
from db.postponing import claim_returned_batches_across_projects
from db.workers import Progress, progress_across_projects

#: Messages on a partition are in the order of their publish times up to this much (seconds): the deadline of a
#: send, the time between a claim and its send, and a good margin.
ORDER_SLACK_SECONDS = 60.0
#: How long to wait for consumers of the second hop to report after the first hop was read (seconds).
_SECOND_HOP_SECONDS = 5.0
#: How many bytes of payload one re-published message may carry; a batch with more goes out in several.
MOST_MESSAGE_BYTES = 1024 * 1024
#: How many claims a worker may have on their way to the broker that answers no requests meanwhile: one after the other
#: they come to 15,000 events a second, since messages of a busy worker are held back, four at once to 25,000
#: (docs/adr/0025).
CLAIMS_AT_ONCE = 4

_log = get_logger(__name__)
_ClaimSome = Callable[[Connection, Claim], Awaitable[list[ClaimedBatch]]]


@dataclass(frozen=True, slots=True)
class Hops:
    """The topics whose consumers must have passed a batch before it counts as stuck, and their partitions."""

    first: str
    second: tuple[str, ...]
    partitions: int


def passed_before(
    rows: Sequence[Progress], topics: Sequence[str], partitions: int, not_before: dt.datetime
) -> dt.datetime | None:
    """Return the time before which everything published on these topics has been dealt with.

    None when a partition has no progress recorded at or after `not_before`: nobody knows, so nothing is stuck.
    """
    fresh = {(row.topic, row.partition): row for row in rows if row.recorded_at >= not_before}
    times = []
    for topic in topics:
        for partition in range(partitions):
            row = fresh.get((topic, partition))
            if row is None:
                return None
            slack = dt.timedelta(0) if row.caught_up else dt.timedelta(seconds=ORDER_SLACK_SECONDS)
            times.append(row.passed_at - slack)
    return min(times, default=None)


class Sweeper:
    """One worker's sweeper. Its two entries may be called at any time; they never overlap and never raise."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        ledger: Ledger,
        hops: Hops,
        *,
        stuck_after_seconds: float,
        batch_size: int,
        progress_seconds: float = 1.0,
        claims_at_once: int = 1,
        giving_way: GivingWay | None = None,
    ) -> None:
        self._claims_at_once = claims_at_once
        self._giving_way = giving_way or GivingWay()
        self._database = database
        self._publisher = publisher
        self._ledger = ledger
        self._hops = hops
        self._stuck_after = stuck_after_seconds
        self._batch_size = batch_size
        self._progress_seconds = progress_seconds
        self._one_at_a_time = asyncio.Lock()
        self._claims: set[int] = set()
        #: Batches that this worker sent back because a newer release wrote their messages (agents/postponing.py).
        self.sent_back: set[UUID] = set()

    async def sweep_unpublished(self) -> int:
        """Publish what is known not to be on the broker, and retries that are due; return how many events."""
        if self._one_at_a_time.locked():
            return 0
        return await self._guarded(self._drain_unpublished)

    async def sweep_stuck(self) -> int:
        """Publish what consumers passed by and did not settle, as well; return how many events."""
        return await self._guarded(self._drain_stuck)

    async def release_published(self) -> None:
        """Have everything that is not settled published again: topics that may have held some of it are new, and empty.

        Raises:
            Unavailable: The database is away.
        """
        async with self._database.across_projects() as connection:
            released = await release_published_across_projects(connection)
        if released:
            _log.warning("topics are new and empty; publishing again", action="sweep_release", count=released)

    async def passed_at(self) -> dt.datetime | None:
        """Return the publish time before which what is unsettled is stuck, or None when nobody knows.

        The second hop is read after the first one, from progress recorded later: a batch that the dispatcher
        forwarded in between is then seen on the second hop and not taken for lost.
        """
        async with self._database.across_projects() as connection:
            now, rows = await progress_across_projects(connection)
        recent = now - dt.timedelta(seconds=5 * self._progress_seconds)
        first = passed_before(rows, [self._hops.first], self._hops.partitions, recent)
        if first is None:
            return None
        second = None
        deadline = asyncio.get_running_loop().time() + _SECOND_HOP_SECONDS
        while second is None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(self._progress_seconds / 4)
            async with self._database.across_projects() as connection:
                _, rows = await progress_across_projects(connection)
            second = passed_before(rows, self._hops.second, self._hops.partitions, now)
        return None if second is None else min(first, second)

    async def _guarded(self, drain: Callable[[], Awaitable[int]]) -> int:
        async with self._one_at_a_time:
            try:
                return await drain()
            except (Unavailable, BrokerAway) as error:
                _log.warning("sweep stopped", action="sweep", error=error.message)
            except Exception as error:
                _log.exception("sweep failed", action="sweep", error=type(error).__name__)
            return 0

    async def _drain_unpublished(self) -> int:
        return await self._drain(NOTHING_PASSED)

    async def _drain_stuck(self) -> int:
        if not self._publisher.state.worth_trying:
            return 0
        return await self._drain(await self.passed_at() or NOTHING_PASSED)

    async def _drain(self, passed_at: dt.datetime) -> int:
        """Claim and publish until nothing is due or the broker is away."""
        await self._release_claims()
        published = 0
        for claim_some in (
            self._claim_sent_back,
            partial(self._claim_due, passed_at),
            partial(self._claim_retries, passed_at),
        ):
            published += await self._publish_all(claim_some)
        if published:
            _log.info("swept", action="sweep_publish", count=published)
        return published

    async def _publish_all(self, claim_some: _ClaimSome) -> int:
        """Claim and send until nothing is left or the broker is away; once it took one, several may be on their way."""
        published = 0
        sending: set[asyncio.Task[int]] = set()
        try:
            while self._publisher.state.worth_trying:
                began = time.monotonic()
                seq, claimed = await self._claim(claim_some)
                if not claimed:
                    break
                sending.add(asyncio.create_task(self._send_claimed(seq, claimed)))
                while len(sending) >= (self._claims_at_once if published else 1):
                    sent, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
                    for task in sent:
                        published += task.result()
                        sending.discard(task)
                if rest := self._giving_way.rest_after(time.monotonic() - began):
                    await asyncio.sleep(rest)
            published += sum(await asyncio.gather(*sending))
        except Exception:
            await asyncio.gather(*sending, return_exceptions=True)
            await self._release_claims()
            raise
        finally:
            for task in sending:
                task.cancel()
        return published

    async def _claim(self, claim_some: _ClaimSome) -> tuple[int, list[ClaimedBatch]]:
        """Claim some under a number that stays open until the broker or the database knows."""
        seq = self._ledger.open()
        self._claims.add(seq)
        async with self._database.across_projects() as connection:
            claimed = await claim_some(connection, Claim(self._ledger.worker_id, seq, self._stuck_after))
        if not claimed:
            self._close(seq)
        return seq, claimed

    async def _send_claimed(self, seq: int, claimed: Sequence[ClaimedBatch]) -> int:
        """Send what was claimed under a number; return how many events."""
        await asyncio.gather(*(self._send(batch) for batch in claimed))
        self._close(seq)
        return sum(len(batch.events) for batch in claimed)

    def _close(self, seq: int) -> None:
        self._claims.discard(seq)
        self._ledger.close(seq)

    async def _release_claims(self) -> None:
        """Release what was claimed and not sent, now or, when the database is away, at the next sweep."""
        for seq in sorted(self._claims):
            async with self._database.across_projects() as connection:
                await release_claim_across_projects(connection, self._ledger.worker_id, seq)
            self._close(seq)

    async def _claim_sent_back(self, connection: Connection, claim: Claim) -> list[ClaimedBatch]:
        some = list(itertools.islice(self.sent_back, self._batch_size))
        claimed = await claim_returned_batches_across_projects(connection, claim, some) if some else []
        self.sent_back.difference_update(some)
        return claimed

    async def _claim_due(self, passed_at: dt.datetime, connection: Connection, claim: Claim) -> list[ClaimedBatch]:
        return await claim_due_batches_across_projects(connection, claim, passed_at, self._batch_size)

    async def _claim_retries(self, passed_at: dt.datetime, connection: Connection, claim: Claim) -> list[ClaimedBatch]:
        return await claim_due_retries_across_projects(connection, claim, passed_at, self._batch_size)

    async def _send(self, batch: ClaimedBatch) -> None:
        for events in split_by_size(batch.events):
            record = RawEventBatch(
                batch.batch_id, batch.committed_at, batch.published_at, events, suspect=batch.suspect
            )
            try:
                await self._publisher.send(record)
            except MessageTooLarge as error:
                # Nobody else's fault: it stays claimed, and is tried again after its pause.
                _log.error("too large", action="sweep_publish", batch_id=str(batch.batch_id), error=error.message)
                continue
            BATCHES_PUBLISHED.labels(by="sweeper").inc()


def split_by_size(events: Sequence[EventRecord]) -> Iterator[list[EventRecord]]:
    """Yield events in messages of at most about `MOST_MESSAGE_BYTES`, at least one event each."""
    part: list[EventRecord] = []
    size = 0
    for event in events:
        event_size = len(msgspec.json.encode(event))
        if part and size + event_size > MOST_MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(event)
        size += event_size
    if part:
        yield part
