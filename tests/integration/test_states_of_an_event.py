"""Intake, settling, sweeping and retries, in any order and with crashes between any two statements, against a model.

What is known of an event is its row; what owns it is a batch or a retry. After every step, whatever was cut in it: each
event is where it was or where the step takes it, each pending one has exactly one owner, each failed an open letter,
and counters equal a fold over the rows. And at the end, when nothing is cut any more, everything settles.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agents.effects import Settled
from agents.registry import MAX_ATTEMPTS
from agents.settlement import Settlement
from agents.sweeper import Hops, Sweeper
from boost_streams.errors import BrokerAway, Conflict, Unavailable
from boost_streams.event_id import batch_of, event_ids, new_batch_id
from boost_streams.events import Event
from boost_streams.ledger import Ledger
from boost_streams.outcomes import Count, EndUserSeen, Outcome, failed, processed, try_again
from boost_streams.publishing import BrokerState
from boost_streams.records import EventRecord, RawEventBatch
from db.events import retry_event
from db.intake import store_batch_across_projects
from db.new_events import NewEvent
from db.rollups import fold_across_projects
from db.workers import bury_dead_workers_across_projects, heartbeat_across_projects, record_progress_across_projects
from tests.support.projects import make_project
from tests.support.scissors import Cut, CuttableDatabase, ProcessDied

T = TypeVar("T")

_HOPS = Hops("raw", ("hop",), 1)
_EMPTY = """
TRUNCATE organizations, events, workers, consumer_progress, event_batches, event_keys_a, event_keys_b, rollup_deltas
CASCADE
"""

cuts = st.none() | st.builds(Cut, statement=st.integers(0, 7), after=st.booleans(), dies=st.booleans())
outcomes = st.sampled_from(("processed", "processed", "failed", "try_again", "unstorable"))


async def execute_as_owner(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _outcome(name: str, event: Event) -> Outcome:
    if name == "processed":
        user = EndUserSeen(event.user_id or "", logged_in=True)
        return processed(Count("seen", (event.event_type,), amount=Decimal("1.5")), user)
    if name == "unstorable":
        return processed(Count("a\x00b", ()))
    return failed("invalid", "url", "is required") if name == "failed" else try_again("away", 0.0)


@dataclass(slots=True)
class Known:
    """An event as the model knows it. It is counted as failed from the time it first fails until it is processed."""

    status: str = "pending"
    attempt: int = 0
    counted_failed: bool = False

    def after(self, outcome: str) -> Known:
        """Return what an outcome for its present attempt makes of it."""
        if outcome == "try_again" and self.attempt + 1 < MAX_ATTEMPTS:
            return Known("pending", self.attempt + 1, self.counted_failed)
        done = outcome == "processed"
        return Known("processed" if done else "failed", self.attempt, not done)


class Topic:
    """What is on the broker: a message may come any number of times. It may be away, or the process die in a send."""

    def __init__(self) -> None:
        self.state = BrokerState(("model:1",))
        self.state.ready = True
        self.state.taken()
        self.messages: list[EventRecord] = []
        self.trouble: str | None = None

    async def send(self, record: RawEventBatch) -> None:
        """Take a batch, or do not."""
        trouble, self.trouble = self.trouble, None
        if trouble == "dies":
            raise ProcessDied
        if trouble == "away":
            raise BrokerAway("away")
        self.messages.extend(record.events)


class Events(RuleBasedStateMachine):
    """The machine; `database_url` and `loop` are set by the test."""

    url: ClassVar[str] = ""
    loop: ClassVar[asyncio.AbstractEventLoop]
    database: ClassVar[CuttableDatabase]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something asynchronous to its end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 30))

    @initialize()
    def begin(self) -> None:
        """Start with a project and nothing else."""
        self.database.scissors.arm(None)
        self.do(execute_as_owner(self.url, _EMPTY))
        self.project = self.do(make_project(self.database)).id
        self.known: dict[UUID, Known] = {}
        self.message_ids: dict[str, UUID] = {}
        self.topic = Topic()
        self.new_worker()

    def new_worker(self) -> None:
        """Start a worker with a ledger of its own."""
        self.ledger = Ledger(uuid4(), "model", "http://model", ("web", "agents", "sweeper"))
        self.sweeper = Sweeper(
            self.database,
            self.topic,  # type: ignore[arg-type]
            self.ledger,
            _HOPS,
            stuck_after_seconds=0,
            batch_size=100,
            progress_seconds=0.2,
        )
        self.settlement = Settlement(self.database, jitter=lambda: 0.0)
        self.do(self.beat())

    async def beat(self) -> None:
        """Record the worker's heartbeat."""
        ledger = self.ledger
        async with self.database.across_projects() as connection:
            await heartbeat_across_projects(connection, ledger.worker_id, "model", "", ("web",), ledger.published_seq)

    def attempt_to(self, cut: Cut | None, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something that may be cut; a worker that dies of it is buried, and another takes its place."""
        self.database.scissors.arm(cut)
        try:
            return self.do(work)
        except Unavailable:
            return None
        except ProcessDied:
            self.database.scissors.arm(None)
            self.do(self.bury())
            self.new_worker()
            return None
        finally:
            self.database.scissors.arm(None)

    async def bury(self) -> None:
        """Let the worker's heartbeat grow old, and have it found dead."""
        await execute_as_owner(self.url, "UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
        async with self.database.across_projects() as connection:
            await bury_dead_workers_across_projects(connection)

    # -- what may happen -----------------------------------------------------------------------------------------

    @rule(
        types=st.lists(st.sampled_from(("page", "pay", "other")), min_size=1, max_size=5),
        message_id=st.none() | st.sampled_from("abc"),
        cut=cuts,
        sent=st.booleans(),
    )
    def take_in(self, types: list[str], message_id: str | None, cut: Cut | None, sent: bool) -> None:
        """Store events in one commit, the first perhaps known already; publish them, or die before."""
        batch_id, seq = new_batch_id(), self.ledger.open()
        ids = event_ids(batch_id, len(types))
        new = [
            NewEvent(self.project, name, b"{}", user_id="u", message_id=None if n else message_id)
            for n, name in enumerate(types)
        ]

        async def store() -> list[UUID]:
            async with self.database.across_projects() as connection:
                stored = await store_batch_across_projects(
                    connection, batch_id, new, worker_id=self.ledger.worker_id, seq=seq, stuck_after_seconds=0
                )
            return [stored.duplicates.get(position, event_id) for position, event_id in enumerate(ids)]

        given = self.attempt_to(cut, store())
        there = self.rows()
        assert set(there) <= {*self.known, *ids}
        taken = [event_id for event_id in ids if event_id in there]
        assert len(taken) in (0, len(ids) - 1, len(ids))
        self.known |= {event_id: Known() for event_id in taken}
        if message_id is not None and ids[0] in there:
            assert message_id not in self.message_ids
            self.message_ids[message_id] = ids[0]
        if given is not None:
            assert set(given) <= set(there)
            if message_id is not None:
                assert given[0] == self.message_ids[message_id]
            if sent:
                self.topic.messages += self.records(taken)
                self.ledger.close(seq)

    @precondition(lambda self: self.topic.messages)
    @rule(data=st.data(), cut=cuts)
    def settle(self, data: st.DataObject, cut: Cut | None) -> None:
        """Settle messages that are on the broker, some perhaps twice, some of long ago."""
        # Mostly what came last: only that moves anything.
        back = st.integers(1, min(len(self.topic.messages), 6)) | st.integers(1, len(self.topic.messages))
        records = [self.topic.messages[-n] for n in data.draw(st.lists(back, min_size=1, max_size=6))]
        said: dict[tuple[UUID, int], str] = {}
        for record in records:
            key = (record.id, record.attempt)
            said[key] = said.get(key) or data.draw(outcomes)
        batch = []
        for record in records:
            event = Event.of_record(record)
            batch.append(Settled(event, _outcome(said[record.id, record.attempt], event)))
        moved = self.attempt_to(cut, self.settlement.settle("model", batch))
        expected = {
            event_id: self.known[event_id].after(outcome)
            for (event_id, attempt), outcome in said.items()
            if self.known[event_id].status == "pending" and self.known[event_id].attempt == attempt
        }
        self.learn(expected, whole=moved is not None)

    @rule(cut=cuts, trouble=st.sampled_from((None, None, "away", "dies")))
    def sweep(self, cut: Cut | None, trouble: str | None) -> None:
        """Publish what is due, perhaps with the broker away or a death in between."""
        self.topic.trouble = trouble
        self.attempt_to(cut, self.sweeper.sweep_unpublished())
        self.topic.trouble = None
        self.topic.state.taken()
        self.learn({}, whole=True)

    @rule(cut=cuts, trouble=st.sampled_from((None, "away", "dies")))
    def sweep_stuck(self, cut: Cut | None, trouble: str | None) -> None:
        """Publish what consumers passed by: by what they record, all of it."""
        self.topic.trouble = trouble
        self.attempt_to(cut, self.swept())
        self.topic.trouble = None
        self.topic.state.taken()
        self.learn({}, whole=True)

    async def swept(self) -> int:
        """Sweep while a consumer says again and again that it is caught up."""
        await self.report()  # a sweep that finds no report takes nothing for stuck
        reporting = asyncio.create_task(self.caught_up())
        try:
            return await self.sweeper.sweep_stuck()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def caught_up(self) -> None:
        """Report again and again."""
        while True:
            await asyncio.sleep(0.02)
            await self.report()

    async def report(self) -> None:
        """Record progress as a consumer does that is caught up, outside of what is cut."""
        async with super(CuttableDatabase, self.database).across_projects() as connection:
            await record_progress_across_projects(connection, uuid4(), [("raw", 0, None), ("hop", 0, None)])

    @precondition(lambda self: any(known.status == "failed" for known in self.known.values()))
    @rule(data=st.data(), cut=cuts)
    def retry(self, data: st.DataObject, cut: Cut | None) -> None:
        """Ask for another try of an event that failed."""
        chosen = data.draw(st.sampled_from(sorted(id for id, known in self.known.items() if known.status == "failed")))

        async def ask() -> int:
            async with self.database.for_project(self.project) as connection:
                return await retry_event(connection, self.project, chosen)

        attempt = self.attempt_to(cut, ask())
        before = self.known[chosen]
        self.learn({chosen: Known("pending", before.attempt + 1, before.counted_failed)}, whole=attempt is not None)

    @precondition(lambda self: any(known.status != "failed" for known in self.known.values()))
    @rule(data=st.data())
    def retry_in_vain(self, data: st.DataObject) -> None:
        """Ask for another try of an event that did not fail."""
        chosen = data.draw(st.sampled_from(sorted(id for id, known in self.known.items() if known.status != "failed")))

        async def ask() -> int:
            async with self.database.for_project(self.project) as connection:
                return await retry_event(connection, self.project, chosen)

        with pytest.raises(Conflict):
            self.do(ask())

    @rule(cut=cuts, most=st.integers(1, 3))
    def fold(self, cut: Cut | None, most: int) -> None:
        """What settlements counted goes where it stays, a few at a time."""

        async def some() -> int | None:
            async with self.database.across_projects() as connection:
                return await fold_across_projects(connection, at_once=True, most=most)

        self.attempt_to(cut, some())

    @rule()
    def broker_forgets(self) -> None:
        """Empty the broker."""
        self.topic.messages.clear()

    @rule()
    def worker_dies(self) -> None:
        """Let the worker die between two things it does."""
        self.do(self.bury())
        self.new_worker()

    @rule()
    def worker_beats(self) -> None:
        """Record a heartbeat: what is accounted for is nobody's business any more."""
        self.do(self.beat())

    # -- what must hold ------------------------------------------------------------------------------------------

    def rows(self) -> dict[UUID, Known]:
        """Return what is stored."""

        async def read() -> list[Any]:
            async with self.database.across_projects() as connection:
                return await connection.fetch("SELECT id, status, attempt FROM events")  # type: ignore[no-any-return]

        return {row["id"]: Known(row["status"], row["attempt"]) for row in self.do(read())}

    def records(self, ids: list[UUID]) -> list[EventRecord]:
        """Return the records of events as intake sends them."""
        import msgspec

        now = dt.datetime.now(dt.UTC)

        async def read() -> list[Any]:
            async with self.database.across_projects() as connection:
                return await connection.fetch("SELECT id, event_type, occurred_at FROM events WHERE id = ANY($1)", ids)  # type: ignore[no-any-return]

        return [
            EventRecord(row["id"], self.project, row["event_type"], row["occurred_at"], now, msgspec.Raw(b"{}"), "u")
            for row in self.do(read())
        ]

    def learn(self, expected: dict[UUID, Known], *, whole: bool) -> None:
        """Take in what a step did: each event is as before or as expected; if the step was whole, as expected."""
        there = self.rows()
        assert set(there) == set(self.known)
        for event_id, before in list(self.known.items()):
            now, then = there[event_id], expected.get(event_id, before)
            state = (now.status, now.attempt)
            if state == (then.status, then.attempt):
                self.known[event_id] = then
            else:
                assert not whole, f"{event_id} is {state}, expected {then}"
                assert state == (before.status, before.attempt), f"{event_id} is {state}, was {before}, may be {then}"

    @invariant()
    def every_pending_event_has_one_owner(self) -> None:
        """Batches own what is pending at attempt 0, and count it; retries own the rest."""
        if not hasattr(self, "known"):
            return

        async def read() -> tuple[list[Any], list[Any]]:
            async with self.database.across_projects() as connection:
                batches = await connection.fetch("SELECT id, unsettled FROM event_batches")
                return batches, await connection.fetch("SELECT event_id, attempt FROM event_retries")

        batches, retries = self.do(read())
        pending = {event_id: known for event_id, known in self.known.items() if known.status == "pending"}
        assert {row["id"]: row["unsettled"] for row in batches} == Counter(
            batch_of(event_id) for event_id, known in pending.items() if known.attempt == 0
        )
        assert {row["event_id"]: row["attempt"] for row in retries} == {
            event_id: known.attempt for event_id, known in pending.items() if known.attempt
        }

    @invariant()
    def every_failed_event_has_an_open_letter(self) -> None:
        """And no other has: lists of what failed are read from letters."""
        if not hasattr(self, "known"):
            return

        async def read() -> list[Any]:
            async with self.database.across_projects() as connection:
                return await connection.fetch("SELECT id FROM dead_letters WHERE status = 'open'")

        failed_now = {event_id for event_id, known in self.known.items() if known.status == "failed"}
        assert {row["id"] for row in self.do(read())} == failed_now

    @invariant()
    def counters_equal_a_fold_over_the_rows(self) -> None:
        """Each event counts once: as processed, or as failed until it is processed."""
        if not hasattr(self, "known"):
            return

        async def read() -> tuple[list[Any], int]:
            async with self.database.across_projects() as connection:
                sums = await connection.fetch(
                    "SELECT metric, coalesce(dimensions[2], '') AS status, sum(count)::int AS count, "
                    "sum(amount) AS amount FROM current_rollups GROUP BY 1, 2 HAVING sum(count) <> 0"
                )
                return sums, await connection.fetchval("SELECT coalesce(sum(logins), 0)::int FROM end_users")

        sums, logins = self.do(read())
        done = sum(known.status == "processed" for known in self.known.values())
        counted = sum(known.counted_failed for known in self.known.values())
        expected = {("events_per_hour", "processed"): done, ("events_per_hour", "failed"): counted, ("seen", ""): done}
        assert {(row["metric"], row["status"]): row["count"] for row in sums} == {
            k: n for k, n in expected.items() if n
        }
        assert sum(row["amount"] for row in sums) == Decimal("1.5") * done
        assert logins == done

    def teardown(self) -> None:
        """Cut nothing more: whatever is pending is published and settles."""
        if not hasattr(self, "known"):
            return
        self.database.scissors.arm(None)
        self.do(self.bury())
        self.new_worker()
        self.broker_forgets()
        for _ in range(3):
            if not any(known.status == "pending" for known in self.known.values()):
                break
            self.sweep_stuck_all()
        assert {known.status for known in self.known.values()} <= {"processed", "failed"}
        self.every_pending_event_has_one_owner()
        self.every_failed_event_has_an_open_letter()
        self.counters_equal_a_fold_over_the_rows()

    def sweep_stuck_all(self) -> None:
        """Sweep, and settle whatever that puts on the broker, shuffled."""
        self.do(self.swept())
        records = random.Random(len(self.known)).sample(self.topic.messages, len(self.topic.messages))
        self.topic.messages.clear()
        expected = {}
        for record in records:
            event = Event.of_record(record)
            self.do(self.settlement.settle("model", [Settled(event, _outcome("processed", event))]))
            if self.known[record.id].attempt == record.attempt and self.known[record.id].status == "pending":
                expected[record.id] = self.known[record.id].after("processed")
        self.learn(expected, whole=True)


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Events]]:
    """The machine with a database and an event loop."""
    loop = asyncio.new_event_loop()
    database = CuttableDatabase(database_url)
    loop.run_until_complete(database.open())
    Events.url, Events.loop, Events.database = database_url, loop, database
    try:
        yield Events
    finally:
        loop.run_until_complete(database.close())
        loop.close()


def test_no_order_of_steps_and_cuts_loses_or_doubles_anything(machine: type[Events]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            print_blob=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
