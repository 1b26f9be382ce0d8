"""An event that fails gets one dead letter, in the transaction that moves it, whatever becomes of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from agents.effects import Settled
from agents.handlers import load_registry
from agents.settlement import Settlement
from boost_streams.errors import NotFound
from boost_streams.outcomes import Count, TryAgain, failed, processed
from db.burial import Burial, Origin, bury_across_projects
from db.dead_letters import (
    LetterFilter,
    count_letters,
    discard_letters,
    get_letter,
    list_letters,
    next_piece,
    replay_letters,
)
from db.events import MOST_HISTORY, retry_event
from db.pool import Database
from db.projects import delete_project_across_projects
from db.settlement import Move, move_events_across_projects
from tests.support.letters import FAILED, bury, due_again, events_of, fetch, letters_of, origins, settle_as
from tests.support.stored_events import store

ANY_TABLE = "SELECT count(*) AS n FROM dead_letters"


@pytest.fixture
def settlement(database: Database) -> Settlement:
    return Settlement(database, jitter=lambda: 0.5)


async def replay(database: Database, project_id: UUID, ids: list[UUID]) -> int:
    async with database.for_project(project_id) as connection:
        return await replay_letters(connection, project_id, ids)


# -- written with the move ---------------------------------------------------------------------------------------


async def test_a_letter_says_who_failed_why_and_where_it_stood(
    database: Database, settlement: Settlement, project: Any
) -> None:
    ids = await store(database, project.id, "page_view", "click", "page_view")
    events = await events_of(database, ids)
    batch = [
        Settled(events[0], FAILED),
        Settled(events[1], processed()),
        Settled(events[2], failed("odd", None, "no \x00 name")),
    ]
    await settlement.settle("tracking", batch, None, origins(events))
    letters = {letter.id: letter for letter in await letters_of(database, project.id)}
    assert set(letters) == {ids[0], ids[2]}
    letter = letters[ids[0]]
    assert (letter.event_type, letter.handler, letter.status) == ("page_view", "tracking", "open")
    assert (letter.code, letter.field, letter.message) == ("missing", "url", "is required")
    assert (letter.topic, letter.partition, letter.offset) == ("events.tracking", 3, 42)
    assert (letter.attempts, letter.replays, bytes(letter.history), letter.closed_at) == (1, 0, b"[]", None)
    (event,) = await fetch(database, "SELECT settled_at FROM events WHERE id = $1", ids[0])
    assert letter.first_failed_at == letter.last_failed_at == event["settled_at"]
    assert letters[ids[2]].message == "no   name"


async def test_what_settles_well_asks_and_writes_nothing_more(database: Database, project: Any) -> None:
    said: list[str] = []
    async with database.across_projects() as connection:
        connection.add_query_logger(lambda query: said.append(query.query))
        lent = cast(Database, SimpleNamespace(across_projects=lambda: contextlib.nullcontext(connection)))
        for _ in range(2):  # a connection's first call asks the server about types
            events = await events_of(database, await store(database, project.id, *["foo"] * 20))
            said.clear()
            await settle_as(Settlement(lent), events, processed(Count("foos", ("a",))))
    assert len(said) == 1, said
    assert "boost_settle_rows(" in said[0]
    assert (await fetch(database, ANY_TABLE))[0]["n"] == 0


async def test_a_letter_is_written_once_when_a_batch_comes_twice(
    database: Database, settlement: Settlement, project: Any
) -> None:
    ids = await store(database, project.id, *["page_view"] * 4)
    events = await events_of(database, ids)
    await settle_as(settlement, events[:1], FAILED)
    first = (await letters_of(database, project.id))[0]
    await settle_as(settlement, events, failed("other", None, "said the second delivery"))
    letters = {letter.id: letter for letter in await letters_of(database, project.id)}
    assert set(letters) == set(ids)
    assert letters[ids[0]] == first
    assert {letters[event_id].code for event_id in ids[1:]} == {"other"}


async def test_no_letter_without_the_move_and_no_move_without_the_letter(database: Database, project: Any) -> None:
    [event_id] = await store(database, project.id, "page_view")
    burial = Burial(project.id, event_id, "page_view", "tracking", "x", None, "x", 1, Origin("t", 0, 0))
    async with database.across_projects() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await move_events_across_projects(connection, [Move(project.id, event_id, 0, "failed", b"{}")])
        await bury_across_projects(connection, [burial])
        await transaction.rollback()
    assert await letters_of(database, project.id) == []
    assert [row["status"] for row in await fetch(database, "SELECT status FROM events")] == ["pending"]


@pytest.mark.parametrize("text", ["nul \x00", "half \ud800 a character", "x" * 100_000])
async def test_whatever_a_handler_says_its_event_fails(
    database: Database, settlement: Settlement, project: Any, text: str
) -> None:
    events = await events_of(database, await store(database, project.id, "page_view", "page_view"))
    batch = [Settled(events[0], failed(text[:20], text[:20], text)), Settled(events[1], processed())]
    assert len(await settlement.settle("tracking", batch)) == 2
    (letter,) = await letters_of(database, project.id)
    assert len(letter.message) <= 2_000
    assert letter.topic is None


async def test_an_argument_that_nobody_can_write_fails_its_own_event(
    database: Database, settlement: Settlement, project: Any
) -> None:
    """asyncpg refuses a number beyond 64 bits before the server sees it."""
    events = await events_of(database, await store(database, project.id, *["foo"] * 3))
    batch = [Settled(event, processed()) for event in events]
    batch[1] = Settled(events[1], processed(Count("many", ("a",), count=2**70)))
    assert len(await asyncio.wait_for(settlement.settle("default", batch), 5)) == 3
    (letter,) = await letters_of(database, project.id)
    assert (letter.id, letter.code) == (events[1].id, "cannot_be_stored")


# -- replayed ----------------------------------------------------------------------------------------------------


async def test_what_fails_again_is_one_letter_with_its_history(
    database: Database, settlement: Settlement, project: Any
) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    (first,) = await letters_of(database, project.id)
    assert await replay(database, project.id, [event_id]) == 1
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.replays) == ("replaying", 1)
    (again,) = await due_again(database)
    assert (again.attempt, again.asked_attempt) == (1, 1)
    await settle_as(settlement, [again], failed("invalid", "url", "must be a path"))
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.code, letter.message, letter.attempts) == ("open", "invalid", "must be a path", 2)
    assert letter.first_failed_at == first.first_failed_at < letter.last_failed_at
    (entry,) = msgspec.json.decode(letter.history)
    assert (entry["code"], entry["field"], entry["message"], entry["attempts"]) == ("missing", "url", "is required", 1)
    assert dt.datetime.fromisoformat(entry["failedAt"]) == first.last_failed_at
    assert first.last_failed_at < dt.datetime.fromisoformat(entry["replayedAt"]) < letter.last_failed_at
    counts = await fetch(database, "SELECT dimensions, count FROM current_rollups WHERE metric = 'events_per_hour'")
    assert [(row["dimensions"][1], row["count"]) for row in counts if row["count"]] == [("failed", 1)]


async def test_what_succeeds_is_resolved(database: Database, settlement: Settlement, project: Any) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    await replay(database, project.id, [event_id])
    await settle_as(settlement, await due_again(database), processed())
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.closed_at is not None, letter.replays) == ("resolved", True, 1)
    assert await replay(database, project.id, [event_id]) == 0


async def test_a_history_is_bounded(database: Database, settlement: Settlement, project: Any) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    for number in range(MOST_HISTORY + 3):
        assert await replay(database, project.id, [event_id]) == 1
        await settle_as(settlement, await due_again(database), failed(f"code{number}", None, "no"))
    (letter,) = await letters_of(database, project.id)
    codes = [entry["code"] for entry in msgspec.json.decode(letter.history)]
    assert codes == [f"code{number}" for number in range(2, MOST_HISTORY + 2)]
    assert (letter.replays, letter.attempts) == (MOST_HISTORY + 3, MOST_HISTORY + 4)


async def test_a_retry_of_the_event_is_a_replay_of_its_letter(
    database: Database, settlement: Settlement, project: Any
) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    async with database.for_project(project.id) as connection:
        await retry_event(connection, project.id, event_id)
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.replays) == ("replaying", 1)
    await settle_as(settlement, await due_again(database), FAILED)
    assert [letter.status for letter in await letters_of(database, project.id)] == ["open"]


async def test_an_event_that_failed_before_there_were_letters_gets_one_when_it_fails_again(
    database: Database, settlement: Settlement, project: Any
) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM dead_letters")
    async with database.for_project(project.id) as connection:
        assert await retry_event(connection, project.id, event_id) == 1
    await settle_as(settlement, await due_again(database), FAILED)
    (letter,) = await letters_of(database, project.id)
    assert (letter.id, letter.attempts, letter.replays) == (event_id, 2, 0)


async def test_discarded_letters_can_be_replayed_after_all(
    database: Database, settlement: Settlement, project: Any
) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    async with database.for_project(project.id) as connection:
        assert await discard_letters(connection, project.id, [event_id]) == 1
        assert await discard_letters(connection, project.id, [event_id]) == 0
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.closed_at is not None) == ("discarded", True)
    assert [row["status"] for row in await fetch(database, "SELECT status FROM events")] == ["failed"]
    assert await replay(database, project.id, [event_id]) == 1
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.closed_at) == ("replaying", None)
    await settle_as(settlement, await due_again(database), FAILED)
    assert [letter.status for letter in await letters_of(database, project.id)] == ["open"]


# -- limits of handlers ------------------------------------------------------------------------------------------


def limited(database: Database, now: dt.datetime | None = None, **limits: Any) -> Settlement:
    """Make a settlement whose handlers all have these limits."""
    registry = load_registry()
    handlers = [type(one)(**{**_fields(one), **limits}) for one in registry.handlers]
    clock = (lambda: now) if now else (lambda: dt.datetime.now(dt.UTC))
    known = type(registry)(handlers, ("tracking", "user", "payment", "default"))
    return Settlement(database, jitter=lambda: 0.5, registry=known, now=clock)


def _fields(handler: Any) -> dict[str, Any]:
    return {name: getattr(handler, name) for name in handler.__dataclass_fields__}


async def test_attempts_are_bounded_and_begin_anew_with_a_replay(database: Database, project: Any) -> None:
    settlement = limited(database, max_attempts=3)
    [event_id] = await store(database, project.id, "page_view")
    await settle_as(settlement, await events_of(database, [event_id]), TryAgain("away"))
    await settle_as(settlement, await due_again(database), TryAgain("still away"))
    assert await letters_of(database, project.id) == []
    await settle_as(settlement, await due_again(database), TryAgain("gone"))
    (letter,) = await letters_of(database, project.id)
    assert (letter.code, letter.message, letter.attempts) == ("too_many_attempts", "3 attempts, the last: gone", 3)
    assert await replay(database, project.id, [event_id]) == 1
    for _ in range(2):
        await settle_as(settlement, await due_again(database), TryAgain("away again"))
        assert [letter.status for letter in await letters_of(database, project.id)] == ["replaying"]
    await settle_as(settlement, await due_again(database), TryAgain("away again"))
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.attempts, letter.replays) == ("open", 6, 1)


async def test_age_is_bounded_from_the_first_try_on(database: Database, project: Any) -> None:
    now = dt.datetime.now(dt.UTC)
    later = now + dt.timedelta(hours=2)
    [event_id] = await store(database, project.id, "page_view")
    # However long it lay before a handler took it, it is young.
    await settle_as(
        limited(database, later, max_age_seconds=3600), await events_of(database, [event_id]), TryAgain("x")
    )
    (again,) = await due_again(database)
    since = again.trying_since
    assert since is not None
    await settle_as(limited(database, now, max_age_seconds=3600), [again], TryAgain("x"))
    (again,) = await due_again(database)
    assert again.trying_since == since
    await settle_as(limited(database, later, max_age_seconds=3600), [again], TryAgain("gone"))
    (letter,) = await letters_of(database, project.id)
    assert letter.code == "tried_too_long"
    assert letter.message.endswith("the last: gone")
    await replay(database, project.id, [event_id])
    (again,) = await due_again(database)
    assert again.trying_since is None


async def test_publishing_spends_no_attempt(database: Database, project: Any) -> None:
    settlement = limited(database, max_attempts=3)
    [event_id] = await store(database, project.id, "page_view")
    await settle_as(settlement, await events_of(database, [event_id]), TryAgain("away"))
    for _ in range(10):
        (again,) = await due_again(database)
    assert again.attempt == 1


# -- many at once ------------------------------------------------------------------------------------------------


async def replay_all(database: Database, project_id: UUID, wanted: LetterFilter, *, most: int = 7) -> int:
    replayed, cursor, first = 0, None, True
    while first or cursor:
        first = False
        async with database.for_project(project_id) as connection:
            piece = await next_piece(connection, project_id, wanted, cursor=cursor, most=most, window=11)
            assert len(piece.ids) <= most
            replayed += await replay_letters(connection, project_id, piece.ids)
        cursor = piece.next_cursor
    return replayed


async def test_a_filter_is_replayed_in_pieces(database: Database, project: Any, other_project: Any) -> None:
    mine = [*await bury(database, project.id, *["page_view"] * 20), *await bury(database, project.id, *["click"] * 15)]
    await bury(database, other_project.id, *["page_view"] * 5)
    wanted = LetterFilter(status="open", event_type="page_view")
    async with database.for_project(project.id) as connection:
        assert await count_letters(connection, project.id, wanted) == 20
    assert await replay_all(database, project.id, wanted) == 20
    assert await replay_all(database, project.id, wanted) == 0
    retries = await fetch(database, "SELECT project_id, event_id, due_at <= now() AS due FROM event_retries")
    assert {row["event_id"] for row in retries} == set(mine[:20])
    assert all(row["due"] and row["project_id"] == project.id for row in retries)


async def test_what_fails_during_a_replay_is_not_taken_twice(
    database: Database, settlement: Settlement, project: Any
) -> None:
    ids = await bury(database, project.id, *["page_view"] * 10)
    async with database.for_project(project.id) as connection:
        piece = await next_piece(connection, project.id, LetterFilter(status="open"), most=5)
        await replay_letters(connection, project.id, piece.ids)
    await settle_as(settlement, await due_again(database), FAILED)
    seen = list(piece.ids)
    while piece.next_cursor:
        async with database.for_project(project.id) as connection:
            piece = await next_piece(
                connection, project.id, LetterFilter(status="open"), cursor=piece.next_cursor, most=5
            )
        seen += piece.ids
    assert sorted(seen) == ids


async def test_two_replays_at_once_hand_over_each_event_once(database: Database, project: Any) -> None:
    ids = await bury(database, project.id, *["page_view"] * 60)
    wanted = LetterFilter(status="open")
    done = await asyncio.gather(*(replay_all(database, project.id, wanted) for _ in range(3)))
    assert sum(done) == len(ids)
    rows = await fetch(database, "SELECT e.attempt, d.replays FROM events e JOIN dead_letters d ON d.id = e.id")
    assert {(row["attempt"], row["replays"]) for row in rows} == {(1, 1)}


async def test_a_replay_while_a_settlement_of_the_event_runs(
    database: Database, settlement: Settlement, project: Any
) -> None:
    [event_id] = await store(database, project.id, "page_view")
    burial = Burial(project.id, event_id, "page_view", "tracking", "x", None, "x", 1, None)
    async with database.across_projects() as connection, connection.transaction():
        await move_events_across_projects(connection, [Move(project.id, event_id, 0, "failed", b"{}")])
        await bury_across_projects(connection, [burial])
        # Not committed yet, so it is not failed yet: there is nothing to replay, and nobody waits.
        assert await asyncio.wait_for(replay(database, project.id, [event_id]), 5) == 0
    stale = await events_of(database, [event_id])
    async with database.for_project(project.id) as connection:
        assert await replay_letters(connection, project.id, [event_id]) == 1
        # The other way round: the first delivery comes again while the replay is not committed.
        assert await asyncio.wait_for(settle_as(settlement, stale, processed()), 5) == []
    assert await settle_as(settlement, stale, processed()) == []
    (letter,) = await letters_of(database, project.id)
    assert (letter.status, letter.replays) == ("replaying", 1)


async def test_settlements_replays_and_discards_at_once_end_in_one_state(
    database: Database, settlement: Settlement, project: Any
) -> None:
    """Each letter says what its event says, whoever came first."""
    ids = await bury(database, project.id, *["page_view"] * 40)

    async def settle_what_is_due(outcome: Any) -> None:
        for _ in range(6):
            await settle_as(settlement, await due_again(database), outcome)

    async def replay_and_discard() -> None:
        for _ in range(6):
            await replay(database, project.id, ids)
            async with database.for_project(project.id) as connection:
                await discard_letters(connection, project.id, ids[:20])

    await asyncio.gather(
        settle_what_is_due(FAILED), settle_what_is_due(FAILED), replay_and_discard(), replay_and_discard()
    )
    await settle_as(settlement, await due_again(database), processed())
    rows = await fetch(
        database, "SELECT e.status AS event, d.status AS letter FROM events e JOIN dead_letters d USING (id)"
    )
    assert len(rows) == len(ids)
    pairs = {(row["event"], row["letter"]) for row in rows}
    assert pairs <= {("failed", "open"), ("failed", "discarded"), ("processed", "resolved")}, pairs


# -- listed ------------------------------------------------------------------------------------------------------


async def test_pages_follow_the_cursor_newest_failure_first(database: Database, project: Any) -> None:
    ids: list[UUID] = []
    for _ in range(4):
        ids += await bury(database, project.id, "page_view", "click")
    seen: list[UUID] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        async with database.for_project(project.id) as connection:
            page = await list_letters(connection, project.id, limit=3, cursor=cursor)
        seen += [letter.id for letter in page.items]
        cursor, pages = page.next_cursor, pages + 1
    assert sorted(seen) == sorted(ids)
    times = [letter.last_failed_at for letter in await letters_of(database, project.id)]
    assert times == sorted(times, reverse=True)


async def test_a_page_looks_at_a_bounded_number(database: Database, project: Any) -> None:
    await bury(database, project.id, "rare")
    await bury(database, project.id, *["page_view"] * 20)
    wanted = LetterFilter(event_type="rare")
    async with database.for_project(project.id) as connection:
        page = await list_letters(connection, project.id, limit=2, wanted=wanted, window=5)
        assert (page.items, page.next_cursor is None) == ([], False)
        while page.next_cursor:
            page = await list_letters(connection, project.id, limit=2, wanted=wanted, window=5, cursor=page.next_cursor)
    assert [letter.event_type for letter in page.items] == ["rare"]


async def test_filters(database: Database, project: Any) -> None:
    await bury(database, project.id, "page_view")
    await bury(database, project.id, "payment_failed", outcome=failed("invalid", None, "no"))
    newest, oldest = await letters_of(database, project.id)

    async def found(**wanted: Any) -> list[str | None]:
        return [letter.event_type for letter in await letters_of(database, project.id, **wanted)]

    assert await found(event_type="page_view") == await found(code="missing") == ["page_view"]
    assert await found(handler="payment") == await found(since=newest.last_failed_at) == ["payment_failed"]
    assert await found(until=newest.last_failed_at) == ["page_view"]
    assert await found(since=oldest.last_failed_at) == ["payment_failed", "page_view"]
    assert await found(status="resolved") == []


# -- tenancy, deletion -------------------------------------------------------------------------------------------


async def test_another_projects_letters_are_not_there(database: Database, project: Any, other_project: Any) -> None:
    theirs = await bury(database, other_project.id, "page_view")
    async with database.for_project(project.id) as connection:
        with pytest.raises(NotFound):
            await get_letter(connection, project.id, theirs[0])
        assert await replay_letters(connection, project.id, theirs) == 0
        assert await discard_letters(connection, project.id, theirs) == 0
        # Even a statement that names the other project sees nothing.
        assert await replay_letters(connection, other_project.id, theirs) == 0
        assert await count_letters(connection, other_project.id, LetterFilter()) == 0
    assert [letter.status for letter in await letters_of(database, other_project.id)] == ["open"]
    with pytest.raises(NotFound):
        async with database.for_project(project.id) as connection:
            await get_letter(connection, project.id, uuid4())


async def test_letters_leave_with_their_project(database: Database, project: Any, other_project: Any) -> None:
    await bury(database, project.id, *["page_view"] * 5)
    await bury(database, other_project.id, "page_view")
    async with database.across_projects() as connection:
        removed = await delete_project_across_projects(connection, project.id, chunk=2)
    assert removed["dead_letters"] == 5
    assert [row["project_id"] for row in await fetch(database, "SELECT project_id FROM dead_letters")] == [
        other_project.id
    ]
