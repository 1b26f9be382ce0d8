"""Group commit: what arrives while a commit is under way goes together into the next one.

A request waits until its events are committed as `pending`, never for a timer and never for the broker. What waits, and
when the next commit begins, is told here; what a commit does, in `web/commit.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence

from boost_streams import metrics
from boost_streams.giving_way import GivingWay
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from db.deadline import ANSWER_BY, ANSWER_SECONDS
from db.new_events import NewEvent
from db.pool import Database
from web.byte_budget import ByteBudget
from web.commit import Committer, not_in_time
from web.outbox import Outbox
from web.waiting import Answer, Part, Submission, WaitingList
from web.wave import Wave

#: How many commits may be under way at once: a second one when enough waits (`web/wave.py`), or when the first takes so
#: long (seconds).
COMMITS_IN_FLIGHT = 2
SLOW_COMMIT_SECONDS = 0.01
#: So many turns of the event loop bring a request from its socket to here.
_TURNS_TO_SUBMIT = 2
#: A turn that took so long (seconds) and brought nothing was somebody else's: what has come is not kept waiting.
_BUSY_TURN_SECONDS = 0.0003
#: How often requests are looked for whose time is over (seconds).
_LOOK_SECONDS = 0.1

_log = get_logger(__name__)


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
        self._outbox = outbox
        self._committer = Committer(
            database,
            outbox,
            ledger,
            stuck_after_seconds=stuck_after_seconds,
            giving_way=giving_way or GivingWay(),
            begins=self._is_storing,
            stored=self._let_the_next_begin,
        )
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
                submission.give_up(not_in_time())
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
        task = asyncio.create_task(self._committer.run(parts))
        self._commits.add(task)
        self._storing.add(task)
        slow = asyncio.get_running_loop().call_later(SLOW_COMMIT_SECONDS, self._is_slow)

        def ended(task: asyncio.Task[None]) -> None:
            slow.cancel()
            self._commits.discard(task)
            self._storing.discard(task)
            self._arrived.set()

        task.add_done_callback(ended)

    def _is_storing(self) -> None:
        self._storing.add(_this_task())

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


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task
