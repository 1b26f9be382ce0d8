"""What a handler loop tells of a list that settled: to the live views, and to the dead-letter topic."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from agents.effects import Settled
from agents.failing_share import FailingShare
from agents.handlers import load_registry
from agents.handling import HandlerLoop
from agents.notices import SettledNotices
from agents.progress import ConsumerProgress
from agents.settlement import Settlement
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, failed, processed
from boost_streams.records import DeadLetter, EventRecord, SettledDeltas, UnreadHandlerBatch
from db.batches import record_of_row
from db.pool import Database
from db.settlement import FirstAttempts
from tests.support.projects import TestProject
from tests.support.stored_events import settle, store
from tests.support.waiting import eventually

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
GOOD, BAD = processed(Count("visits", ("a",))), failed("bad", None, "no")
#: PostgreSQL takes no NUL: the event fails in its place, whatever its handler said.
UNSTORABLE = processed(Count("visits", ("a\x00",)))


class _Notices(SettledNotices):
    """Notes what the loop had it told: how many events, and whether they had been added up."""

    def __init__(self, sent: list[SettledDeltas]) -> None:
        async def send(deltas: SettledDeltas, **_: Any) -> None:
            sent.append(deltas)

        super().__init__(SimpleNamespace(send=send), lambda: NOON)  # type: ignore[arg-type]
        self.told: list[tuple[int, bool]] = []

    def tell(self, moved: Sequence[Settled], added_up: FirstAttempts | None = None) -> None:
        self.told.append((len(moved), added_up is not None))
        super().tell(moved, added_up)


async def _nothing(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    ("outcomes", "moved_before", "told", "counted", "letters"),
    [
        ([GOOD, GOOD, GOOD], 0, (3, True), (3, 0), []),
        ([GOOD, BAD, GOOD], 0, (3, True), (2, 1), ["bad"]),
        ([GOOD, BAD, GOOD], 1, (2, False), (1, 1), ["bad"]),
        ([GOOD, UNSTORABLE, BAD], 0, (3, False), (1, 2), ["bad", "cannot_be_stored"]),
    ],
    ids=["all processed", "one failed", "one moved before", "one that cannot be stored"],
)
async def test_what_moved_is_told_with_the_outcome_that_it_got(
    database: Database,
    project: TestProject,
    outcomes: list[Outcome],
    moved_before: int,
    told: tuple[int, bool],
    counted: tuple[int, int],
    letters: list[str],
) -> None:
    ids = await store(database, project.id, *["page_view"] * len(outcomes))
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT * FROM events ORDER BY id")
    await settle(database, project.id, ids[:moved_before], "processed")
    records: list[EventRecord] = [record_of_row(row) for row in rows]

    async def outcomes_of(_: Any) -> list[Settled]:
        return [Settled(Event.of_record(one), outcome) for one, outcome in zip(records, outcomes, strict=True)]

    written: list[DeadLetter] = []

    async def write(those: Sequence[DeadLetter]) -> None:
        written.extend(those)

    registry, progress, sent = load_registry(), ConsumerProgress(), list[SettledDeltas]()
    notices = _Notices(sent)
    loop = HandlerLoop(
        "tracking",
        registry,
        Settlement(database, registry=registry),
        progress,
        SimpleNamespace(write=write),  # type: ignore[arg-type]
        notices,
        SimpleNamespace(outcomes=outcomes_of),  # type: ignore[arg-type]
        SimpleNamespace(holds=_nothing, judge=_nothing),  # type: ignore[arg-type]
        FailingShare("tracking", registry, limit=0.5, least=100),
        lambda: NOON,
        SimpleNamespace(postpone=_nothing),  # type: ignore[arg-type]
    )
    message: Any = SimpleNamespace(
        topic="tracking",
        partition=0,
        offset=0,
        value=UnreadHandlerBatch(
            UUID(int=1), NOON, NOON, "tracking", [msgspec.Raw(msgspec.json.encode(one)) for one in records]
        ),
        acknowledge=_nothing,
    )
    progress.took("tracking", 0, 0, NOON)
    await loop._settle_and_acknowledge([message], await loop.handle([message]))
    assert notices.told == [told]
    await eventually(lambda: bool(sent))
    (count,) = sent[0].counts
    assert (count.event_type, count.processed, count.failed) == ("page_view", *counted)
    await eventually(lambda: len(written) == len(letters))
    assert Counter(letter.reason for letter in written) == Counter(letters)
