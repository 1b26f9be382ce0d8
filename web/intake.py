"""Group commit: what arrives while a commit is under way goes together into the next one.

A request waits until its events are committed as `pending`, never for a timer and never for the broker. One commit
is one transaction, one `event_batches` row and one `RawEventBatch` message. A value that PostgreSQL refuses costs
only the event that carries it: the commit is halved until the offender stands alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from uuid import UUID

import asyncpg

from boost_streams import metrics
from boost_streams.errors import BoostError, Invalid, Unauthorized, Unavailable, without_frames
from boost_streams.event_id import id_texts, new_batch_id
from boost_streams.giving_way import GivingWay
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from db.deadline import ANSWER_BY, ANSWER_SECONDS
from db.intake import StoredBatch, store_batch_across_projects
from db.new_events import NewEvent
from db.pool import RETRY_AFTER_SECONDS, Database
from web.byte_budget import ByteBudget
from web.outbox import Outbox
from web.outgoing import outgoing_batch
from web.waiting import Accepted, Answer, Part, Submission, WaitingList
from web.wave import Wave

#: How many commits may be under way at once: a second one when enough waits (`web/wave.py`), or when the first takes so
#: long (seconds).
COMMITS_IN_FLIGHT = 2
SLOW_COMMIT_SECONDS = 0.01
#: So many turns of the event loop bring a request from its socket to here.
_TURNS_TO_SUBMIT = 2
#: A turn that took so long (seconds) and brought nothing was somebody else's: what has come is not kept waiting.
_BUSY_TURN_SECONDS = 0.0003
#: How long one commit may take before it is given up (seconds); its requests are answered before (db/deadline.py).
COMMIT_SECONDS = 4.0
#: How often requests are looked for whose time is over (seconds).
_LOOK_SECONDS = 0.1
#: How often a commit is tried again after a deadlock or a serialization failure.
_CONFLICT_TRIES = 3

_log = get_logger(__name__)


class _NothingSent(Exception):
    """PostgreSQL was away before anything was asked of it: nothing can have been committed."""

    def __init__(self, unavailable: Unavailable) -> None:
        super().__init__(unavailable.message)
        self.unavailable = unavailable


class Intake:
    """Takes events in. `start()` before use; `drain()` then `stop()` at the end."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        ledger: Ledger,
        *,
        stuck_after_seconds: float,
        most_waiting_bytes: int,
        takes_in_only: bool = False,
        commits_in_flight: int = COMMITS_IN_FLIGHT,
        giving_way: GivingWay | None = None,
    ) -> None:
        self._giving_way = giving_way or GivingWay()
        self._database = database
        self._outbox = outbox
        self._ledger = ledger
        self._stuck_after = stuck_after_seconds
        #: What bodies that arrive and events that are not answered yet may take together.
        self.budget = ByteBudget(most_waiting_bytes)
        self._waiting = WaitingList()
        self._arrived = asyncio.Event()
        #: Commits that are not answered yet, and those among them that PostgreSQL still works on.
        self._commits: set[asyncio.Task[None]] = set()
        self._storing: set[asyncio.Task[None]] = set()
        self._commits_in_flight = commits_in_flight
        self._slow = False
        self._unanswered = 0
        self._requests = 0
        self._wave = Wave(takes_in_only=takes_in_only)
        self._to_answer: deque[Submission] = deque()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the commit loop and the outbox."""
        metrics.WAITING_BYTES.set_function(lambda: self.budget.used)
        self._loops = [asyncio.create_task(self._commit_loop()), asyncio.create_task(self._answer_in_time())]
        await self._outbox.start()

    async def submit(self, events: Sequence[NewEvent]) -> list[Answer]:
        """Store events; return for each, in order, its id or why it was refused.

        Raises:
            Overloaded: Too many bytes are waiting already; nothing of this request was stored.
        """
        if not events:
            return []
        answered: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()

        def answer(answers: list[Answer]) -> None:
            if not answered.done():  # nobody waits any more where the client is gone
                answered.set_result(answers)

        self.submit_then(events, answer)
        return await answered

    def submit_then(self, events: Sequence[NewEvent], answer: Callable[[list[Answer]], None]) -> None:
        """Store at least one event; `answer` is called with what `submit` returns. It must not raise.

        Raises:
            Overloaded: Too many bytes are waiting already; nothing was stored and `answer` is not called.
        """
        answer_by = ANSWER_BY.get() or asyncio.get_running_loop().time() + ANSWER_SECONDS
        submission = Submission(events, functools.partial(self._answered, answer), answer_by)
        self.budget.take(submission.size)
        self._waiting.append(submission)
        self._to_answer.append(submission)
        self._unanswered += len(events)
        self._requests += 1
        if not self._storing or self._worth_a_commit_beside:
            self._arrived.set()

    def _answered(self, answer: Callable[[list[Answer]], None], submission: Submission, answers: list[Answer]) -> None:
        self._unanswered -= len(submission.events)
        self._requests -= 1
        self.budget.give_back(submission.size)
        self._forget_answered()
        answer(answers)

    async def drain(self, seconds: float) -> None:
        """Commit what waits and wait for messages on their way, up to a deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting.events or self._commits or self._outbox.on_their_way:
                    tasks = [*self._commits, *self._outbox.on_their_way] or [asyncio.create_task(asyncio.sleep(0.005))]
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Stop committing, then the outbox."""
        tasks = [*self._commits, *self._loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._outbox.stop()

    async def _commit_loop(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._may_begin():
                await self._gather()
                if self._may_begin():  # an ended commit may have begun the next one meanwhile
                    self._begin(self._waiting.take(self._wave.most))

    def _may_begin(self) -> bool:
        """Tell whether a commit may begin: none is under way, or it is worth one, or those under way take long.

        What a commit costs is paid once for all of its events (docs/adr/0010): while one is under way, the next fills.
        """
        if not self._waiting.events or len(self._storing) >= self._commits_in_flight:
            return False
        return not self._storing or self._worth_a_commit_beside or self._slow

    @property
    def _worth_a_commit_beside(self) -> bool:
        """Tell whether so much waits that it is stored while PostgreSQL still works on what came before."""
        return self._waiting.full or self._waiting.events >= self._wave.beside_from

    async def _answer_in_time(self) -> None:
        """Answer 503 where PostgreSQL takes too long: what still waits is not stored, what is being stored may be."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._forget_answered()
            now = loop.time()
            late = [one for one in self._to_answer if one.answer_by <= now and not one.answered]
            for submission in late:
                submission.give_up(_late())
            if late:
                self._waiting.drop_answered()
                _log.warning("requests not stored in time", action="intake_late", count=len(late))

    def _forget_answered(self) -> None:
        """Let go of events that nobody waits for any more: memory that is free at once is still in the cache."""
        while self._to_answer and self._to_answer[0].answered:
            self._to_answer.popleft()

    async def _gather(self) -> None:
        """Let in what the event loop has at hand already, so that requests that come together are stored together."""
        self._wave.look(self._unanswered, self._requests)
        enough = self._wave.worth_waiting_for
        seen = 0
        while seen < self._waiting.events < enough:
            seen = self._waiting.events
            for _ in range(_TURNS_TO_SUBMIT):
                before, began = self._waiting.events, time.perf_counter()
                await asyncio.sleep(0)
                if self._waiting.events == before and time.perf_counter() - began > _BUSY_TURN_SECONDS:
                    return

    def _begin(self, parts: list[Part]) -> None:
        if not parts:
            return  # while it gathered, time ran out for all that waited
        self._slow = False
        task = asyncio.create_task(self._commit_safely(parts))
        self._commits.add(task)
        self._storing.add(task)
        slow = asyncio.get_running_loop().call_later(SLOW_COMMIT_SECONDS, self._is_slow)

        def ended(task: asyncio.Task[None]) -> None:
            slow.cancel()
            self._commits.discard(task)
            self._storing.discard(task)
            self._arrived.set()

        task.add_done_callback(ended)

    async def _let_the_next_begin(self) -> None:
        """Give PostgreSQL its next commit, if one is at hand, before this one, which is stored, is answered."""
        self._storing.discard(_this_task())
        self._wave.look(self._unanswered, self._requests)
        if self._waiting.events >= self._wave.worth_waiting_for and self._may_begin():
            self._begin(self._waiting.take(self._wave.most))
            await asyncio.sleep(0)

    def _is_slow(self) -> None:
        self._slow = True
        self._arrived.set()

    async def _commit_safely(self, parts: list[Part]) -> None:
        try:
            await self._commit(parts)
        except Exception as error:
            _log.exception("a commit failed unexpectedly", action="intake_commit", count=len(parts))
            _answer_rest(parts, BoostError(f"the event could not be stored: {type(error).__name__}"))

    async def _commit(self, parts: list[Part]) -> None:
        """Store events as one batch; halve it when one of them is refused by the database."""
        self._storing.add(_this_task())
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
        await self._let_the_next_begin()
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
            raise _late() if sent else _NothingSent(_late()) from None
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


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _answer_rest(parts: list[Part], answer: Answer) -> None:
    for part in parts:
        part.submission.answer_rest(part.first, part.end, answer)


def _late() -> Unavailable:
    return Unavailable("PostgreSQL takes too long; nothing was decided, try again", retry_after=RETRY_AFTER_SECONDS)


def _refusal(error: asyncpg.PostgresError) -> BoostError:
    if error.sqlstate == "23503":
        return Unauthorized("the project of this key no longer exists")
    return Invalid.field("payload", f"PostgreSQL cannot store it: {str(error).splitlines()[0]}")
