"""One commit: events stored in one transaction, each answered, and the message of what was stored.

One commit is one transaction, one `event_batches` row and one `RawEventBatch` message (docs/adr/0001). A value that
PostgreSQL refuses costs only the event that carries it: the commit is halved until the offender stands alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg

from boost_streams import metrics
from boost_streams.errors import BoostError, Invalid, Unauthorized, Unavailable, without_frames
from boost_streams.event_id import id_texts, new_batch_id
from boost_streams.giving_way import GivingWay
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from db.intake import StoredBatch, store_batch_across_projects
from db.new_events import NewEvent
from db.pool import RETRY_AFTER_SECONDS, Database
from web.outbox import Outbox
from web.outgoing import outgoing_batch
from web.waiting import Accepted, Answer, Part

#: How long one commit may take before it is given up (seconds); its requests are answered before (db/deadline.py).
COMMIT_SECONDS = 4.0
#: How often a commit is tried again after a deadlock or a serialization failure.
_CONFLICT_TRIES = 3

_log = get_logger(__name__)


class _NothingSent(Exception):
    """PostgreSQL was away before anything was asked of it: nothing can have been committed."""

    def __init__(self, unavailable: Unavailable) -> None:
        super().__init__(unavailable.message)
        self.unavailable = unavailable


class Committer:
    """Runs commits, of which several may be under way at once.

    `begins` is called when one asks PostgreSQL to store something, again for each part of a commit that is halved;
    `stored` is awaited when PostgreSQL is done with it, before anything is answered.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        ledger: Ledger,
        *,
        stuck_after_seconds: float,
        giving_way: GivingWay,
        begins: Callable[[], None],
        stored: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._stuck_after = stuck_after_seconds
        self._giving_way = giving_way
        self._begins = begins
        self._stored = stored

    async def run(self, parts: list[Part]) -> None:
        """Store what these parts hold and answer each; never raises."""
        try:
            await self._commit(parts)
        except Exception as error:
            _log.exception("a commit failed unexpectedly", action="intake_commit", count=len(parts))
            _answer_rest(parts, BoostError(f"the event could not be stored: {type(error).__name__}"))

    async def _commit(self, parts: list[Part]) -> None:
        """Store events as one batch; halve it when one of them is refused by the database."""
        self._begins()
        events = [event for part in parts for event in part.events()]
        batch_id = new_batch_id()
        seq = self._ledger.open()
        started = time.perf_counter()
        try:
            stored = await self._store(batch_id, events, seq)
        except _NothingSent as error:
            self._ledger.close(seq)
            _answer_rest(parts, without_frames(error.unavailable))
            return
        except Unavailable as error:
            # Whether the server committed before it went away, or will, is not known: have it published if so.
            self._outbox.leave_to_sweeper(batch_id, seq, stored=False)
            _answer_rest(parts, without_frames(error))
            return
        except asyncpg.CheckViolationError as error:
            self._ledger.close(seq)
            if error.constraint_name is None:  # no check failed: the row found no partition
                _answer_rest(parts, Unavailable("no partition for the present time; it is being made", retry_after=1))
                return
            await self._bisect(parts, error)
            return
        except asyncpg.PostgresError as error:
            self._ledger.close(seq)
            if not isinstance(error.sqlstate, str) or error.sqlstate[:2] not in ("22", "23", "54"):
                raise
            await self._bisect(parts, error)
            return
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        metrics.COMMIT_EVENTS.observe(len(events))
        await self._stored()
        texts = id_texts(batch_id, len(events))
        self._answer(parts, stored, texts)
        self._publish(events, stored, texts, seq)

    async def _store(self, batch_id: UUID, events: Sequence[NewEvent], seq: int) -> StoredBatch:
        sent = False
        try:
            async with asyncio.timeout(COMMIT_SECONDS), self._database.across_projects() as connection:
                sent = True
                for tries_left in reversed(range(_CONFLICT_TRIES)):
                    try:
                        return await store_batch_across_projects(
                            connection,
                            batch_id,
                            events,
                            worker_id=self._ledger.worker_id,
                            seq=seq,
                            stuck_after_seconds=self._stuck_after,
                        )
                    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                        if not tries_left:
                            raise
        except TimeoutError:
            raise not_in_time() if sent else _NothingSent(not_in_time()) from None
        except Unavailable as error:
            raise error if sent else _NothingSent(error) from None
        raise AssertionError("unreachable: the last try returns or raises")

    async def _bisect(self, parts: list[Part], error: asyncpg.PostgresError) -> None:
        singles = [single for part in parts for single in part.singles()]
        if len(singles) == 1:
            _answer_rest(singles, _refusal(error))
            return
        middle = len(singles) // 2
        await self._commit(singles[:middle])
        await self._commit(singles[middle:])

    def _answer(self, parts: list[Part], stored: StoredBatch, texts: Sequence[str]) -> None:
        duplicates = stored.duplicates
        answers = [Accepted(text) for text in texts]
        for number, first_id in duplicates.items():
            answers[number] = Accepted(str(first_id), duplicate=True)
        start = 0
        for part in parts:
            part.submission.answer(part.first, answers[start : start + len(part)])
            start += len(part)
        metrics.EVENTS_DUPLICATE.inc(len(duplicates))
        metrics.EVENTS_ACCEPTED.inc(len(answers) - len(duplicates))
        self._giving_way.took_in(len(answers))

    def _publish(self, events: Sequence[NewEvent], stored: StoredBatch, texts: Sequence[str], seq: int) -> None:
        if stored.committed_at is None:
            self._ledger.close(seq)
        else:
            self._outbox.publish(outgoing_batch(events, stored, texts, stored.committed_at), seq)


def _answer_rest(parts: list[Part], answer: Answer) -> None:
    for part in parts:
        part.submission.answer_rest(part.first, part.end, answer)


def not_in_time() -> Unavailable:
    """Make the answer for events that PostgreSQL takes too long to store."""
    return Unavailable("PostgreSQL takes too long; nothing was decided, try again", retry_after=RETRY_AFTER_SECONDS)


def _refusal(error: asyncpg.PostgresError) -> BoostError:
    if error.sqlstate == "23503":
        return Unauthorized("the project of this key no longer exists")
    return Invalid.field("payload", f"PostgreSQL cannot store it: {str(error).splitlines()[0]}")
