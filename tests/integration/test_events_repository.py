"""A project's events as its own requests see them: by id, listed, tried again."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from boost_streams.errors import Conflict, Invalid, NotFound
from boost_streams.event_id import first_id_of_day, id_at
from db.dead_letters import discard_letters
from db.events import (
    LETTERS_DAYS,
    EventFilter,
    EventPage,
    cursor_after,
    get_event,
    list_events,
    read_cursor,
    retry_event,
)
from db.partitions import ensure_partitions
from db.pool import Database
from db.retention import CLOSED_LETTERS_DAYS
from tests.support.stored_events import settle, store


async def page(database: Database, project_id: UUID, **options: Any) -> EventPage:
    now = options.pop("now", dt.datetime.now(dt.UTC))
    async with database.for_project(project_id) as connection:
        return await list_events(connection, project_id, **{"limit": 50, "now": now, **options})


async def all_pages(database: Database, project_id: UUID, **options: Any) -> list[EventPage]:
    pages = [await page(database, project_id, **options)]
    while pages[-1].next_cursor is not None:
        pages.append(await page(database, project_id, cursor=pages[-1].next_cursor, **options))
    return pages


def ids_of(pages: list[EventPage]) -> list[UUID]:
    return [event.id for one in pages for event in one.items]


async def test_event_comes_back_as_it_was_stored(database: Database, project: Any) -> None:
    [event_id] = await store(database, project.id, "page_view", payload=b'{"n": 12345678901234567890.123}')
    async with database.for_project(project.id) as connection:
        event = await get_event(connection, project.id, event_id)
    assert (event.id, event.event_type, event.status, event.attempt) == (event_id, "page_view", "pending", 0)
    assert (event.user_id, event.anonymous_id, event.settled_at, event.error) == ("u-1", None, None, None)
    assert bytes(event.payload) == b'{"n": 12345678901234567890.123}'
    assert event.received_at.tzinfo is not None


async def test_failed_event_says_why(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    await settle(database, project.id, ids, "failed")
    async with database.for_project(project.id) as connection:
        event = await get_event(connection, project.id, ids[0])
    assert event.error is not None
    assert b'"url"' in bytes(event.error)
    assert event.settled_at is not None


async def test_event_of_another_project_is_not_found(database: Database, project: Any, other_project: Any) -> None:
    [theirs] = await store(database, other_project.id, "page_view")
    async with database.for_project(project.id) as connection:
        with pytest.raises(NotFound):
            await get_event(connection, project.id, theirs)
        # Row-level security holds even when the statement names the other project.
        with pytest.raises(NotFound):
            await get_event(connection, other_project.id, theirs)
        with pytest.raises(NotFound):
            await get_event(connection, project.id, UUID(int=7))


async def test_pages_hold_every_event_once_newest_first(database: Database, project: Any, other_project: Any) -> None:
    stored = [event_id for _ in range(5) for event_id in await store(database, project.id, *["click"] * 7)]
    await store(database, other_project.id, *["click"] * 7)
    pages = await all_pages(database, project.id, limit=10)
    assert [len(one.items) for one in pages] == [10, 10, 10, 5]
    assert ids_of(pages) == sorted(stored, reverse=True)


async def test_last_page_has_no_cursor_when_it_is_exactly_full(database: Database, project: Any) -> None:
    await store(database, project.id, *["click"] * 4)
    assert (await page(database, project.id, limit=4)).next_cursor is None
    assert (await page(database, project.id, limit=3)).next_cursor is not None


async def test_list_reaches_back_over_every_partition(database: Database, project: Any) -> None:
    now = dt.datetime.now(dt.UTC)
    stored = []
    for days in (0, 1, 3, 20, 200, 700):
        then = now - dt.timedelta(days=days)
        await ensure_partitions(database, now=then)
        batch_id = UUID(int=id_at(then).int & ~0xFFFF)
        stored += await store(database, project.id, "click", "page_view", batch_id=batch_id)
    newest_first = sorted(stored, reverse=True)
    assert ids_of([await page(database, project.id)]) == newest_first
    assert ids_of(await all_pages(database, project.id, limit=1)) == newest_first
    clicks = EventFilter(event_type="click")
    found = ids_of(await all_pages(database, project.id, limit=2, wanted=clicks, window=3))
    assert set(found) == {event_id for event_id in stored if event_id.int & 0xFFFF == 0}
    assert found == sorted(found, reverse=True)


async def test_events_of_a_clock_ahead_are_listed(database: Database, project: Any) -> None:
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    ids = await store(database, project.id, "click", batch_id=UUID(int=id_at(ahead).int & ~0xFFFF))
    assert ids_of([await page(database, project.id)]) == ids


async def test_filters_by_status_and_type(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "page_view", "click", "page_view")
    await settle(database, project.id, ids[:2], "processed")
    await settle(database, project.id, ids[2:3], "failed")

    async def found(**wanted: Any) -> list[UUID]:
        return ids_of([await page(database, project.id, wanted=EventFilter(**wanted))])

    assert await found(status="pending") == [ids[3]]
    assert await found(status="failed") == [ids[2]]
    assert await found(event_type="click") == [ids[2], ids[0]]
    assert await found(event_type="click", status="processed") == [ids[0]]
    assert await found(event_type="no such") == []


async def test_page_looks_at_no_more_than_its_window(database: Database, project: Any) -> None:
    rare = await store(database, project.id, "rare")
    ids = await store(database, project.id, *["click"] * 30)
    only_rare = EventFilter(event_type="rare")
    first = await page(database, project.id, limit=5, wanted=only_rare, window=10)
    assert first.items == []
    assert first.next_cursor == cursor_after(ids[20])
    pages = await all_pages(database, project.id, limit=5, wanted=only_rare, window=10)
    assert [len(one.items) for one in pages] == [0, 0, 0, 1]
    assert ids_of(pages) == rare


async def test_full_filtered_page_goes_on_after_its_last_event(database: Database, project: Any) -> None:
    ids = await store(database, project.id, *["click", "page_view"] * 6)
    pages = await all_pages(database, project.id, limit=2, wanted=EventFilter(event_type="click"), window=100)
    assert [len(one.items) for one in pages] == [2, 2, 2]
    assert ids_of(pages) == sorted(ids[::2], reverse=True)


@dataclass
class Stored:
    """An event as it was stored, whether it failed once, and what it is now."""

    id: UUID
    event_type: str
    has_letter: bool = False
    status: str = "pending"


def expected_page(
    newest_first: list[Stored], *, limit: int, window: int, wanted: EventFilter, cursor: str | None, now: dt.datetime
) -> tuple[list[UUID], str | None]:
    """Say what a page holds, and its cursor, from what was stored."""
    before = read_cursor(cursor) if cursor else UUID(int=(1 << 128) - 1)
    window = limit + 1 if wanted.wants_all else max(window, limit + 1)
    looked_at = [event for event in newest_first if event.id < before]
    if wanted.status == "failed":
        oldest_letter = first_id_of_day(now.date() - dt.timedelta(days=LETTERS_DAYS))
        looked_at = [event for event in looked_at if event.has_letter or event.id < oldest_letter]
    looked_at = looked_at[:window]
    found = [
        event.id
        for event in looked_at
        if wanted.event_type in (None, event.event_type) and wanted.status in (None, event.status)
    ]
    if len(found) > limit:
        return found[:limit], cursor_after(found[limit - 1])
    return found, cursor_after(looked_at[-1].id) if len(looked_at) == window else None


async def store_and_settle(
    database: Database, project_id: UUID, then: dt.datetime, chance: random.Random
) -> list[Stored]:
    """Store a dozen events of a time: five failed, of which one is pending again, one was mended, one is discarded."""
    await ensure_partitions(database, now=then)
    types = chance.choices(["click", "page_view", "rare"], [5, 4, 1], k=12)
    ids = await store(database, project_id, *types, batch_id=UUID(int=id_at(then).int & ~0xFFFF))
    failed = set(chance.sample(ids, 5))
    await settle(database, project_id, sorted(failed), "failed")
    again, mended, discarded, *_ = sorted(failed)
    async with database.for_project(project_id) as connection:
        await retry_event(connection, project_id, again)
        await retry_event(connection, project_id, mended)
        await discard_letters(connection, project_id, [discarded])
    await settle(database, project_id, [mended], "processed", attempt=1)
    now = dict.fromkeys(failed, "failed") | {again: "pending", mended: "processed"}
    return [Stored(i, t, i in failed, now.get(i, "pending")) for i, t in zip(ids, types, strict=True)]


async def test_pages_are_those_that_looking_at_each_event_gives(database: Database, project: Any) -> None:
    """Over spans of days, whatever the filter, limit and window: the same events, and the same cursors."""
    now = dt.datetime.now(dt.UTC)
    chance = random.Random(5)
    stored: list[Stored] = []
    for days in (0, 1, 3, 20, LETTERS_DAYS + 1, 200):
        stored += await store_and_settle(database, project.id, now - dt.timedelta(days=days), chance)
    stored.sort(key=lambda event: event.id, reverse=True)
    filters = [EventFilter(), EventFilter(event_type="click"), EventFilter(event_type="rare")]
    filters += [EventFilter("failed"), EventFilter("failed", "click"), EventFilter("failed", "no such")]
    filters += [EventFilter("pending", "page_view"), EventFilter(event_type="no such")]
    for wanted, limit, window in itertools.product(filters, (1, 4, 11, 60), (2, 7, 12, 24, 60, 100)):
        options: dict[str, Any] = {"limit": limit, "window": window, "wanted": wanted, "now": now}
        cursor = None
        for _ in range(len(stored) + 1):
            one = await page(database, project.id, cursor=cursor, **options)
            assert (ids_of([one]), one.next_cursor) == expected_page(stored, cursor=cursor, **options), (
                options,
                cursor,
            )
            if (cursor := one.next_cursor) is None:
                break
        assert cursor is None


async def test_failed_events_are_listed_until_they_are_handed_over_again(
    database: Database, project: Any, other_project: Any
) -> None:
    """Whatever became of their letters: one that somebody discarded may be gone, a month later."""
    failed = EventFilter(status="failed")
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=CLOSED_LETTERS_DAYS + 5)
    await ensure_partitions(database, now=long_ago)
    [old] = await store(database, project.id, "click", batch_id=UUID(int=id_at(long_ago).int & ~0xFFFF))
    discarded, again = await store(database, project.id, "click", "click")
    await settle(database, project.id, [old, discarded, again], "failed")
    theirs = await store(database, other_project.id, "click")
    await settle(database, other_project.id, theirs, "failed")
    async with database.for_project(project.id) as connection:
        assert await discard_letters(connection, project.id, [old, discarded]) == 2
        await retry_event(connection, project.id, again)
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM dead_letters WHERE id = $1", old)
    assert ids_of([await page(database, project.id, wanted=failed)]) == [discarded, old]
    await settle(database, project.id, [again], "processed", attempt=1)
    assert ids_of([await page(database, project.id, wanted=failed)]) == [discarded, old]
    assert ids_of([await page(database, other_project.id, wanted=failed)]) == theirs


async def test_few_that_failed_are_found_among_many(database: Database, project: Any) -> None:
    """A page of them is full though more events than its window lie between each two."""
    failed = []
    for _ in range(4):
        ids = await store(database, project.id, *["click"] * 30)
        failed += ids[:1]
    await settle(database, project.id, failed, "failed")
    found = await page(database, project.id, limit=3, window=10, wanted=EventFilter(status="failed"))
    assert ids_of([found]) == sorted(failed, reverse=True)[:3]
    assert found.next_cursor == cursor_after(failed[1])


class Counting:
    """A connection that counts the rows it gives back."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.rows = 0

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        rows = await self._connection.fetch(statement, *arguments)
        self.rows += len(rows)
        return rows


@pytest.mark.parametrize(("event_type", "items", "rows"), [("click", 5, 6 + 5), ("rare", 1, 1 + 1 + 1), ("no", 0, 1)])
async def test_only_what_a_page_needs_leaves_the_server(
    database: Database, project: Any, event_type: str, items: int, rows: int
) -> None:
    await store(database, project.id, *["page_view"] * 20, "rare", *["page_view", "click"] * 40)
    async with database.for_project(project.id) as connection:
        counting = Counting(connection)
        found = await list_events(
            counting,  # type: ignore[arg-type]
            project.id,
            limit=5,
            now=dt.datetime.now(dt.UTC),
            wanted=EventFilter(event_type=event_type),
            window=90,
        )
    assert (len(found.items), counting.rows) == (items, rows)


async def test_an_older_span_is_read_for_what_is_missing_only(database: Database, project: Any) -> None:
    now = dt.datetime.now(dt.UTC)
    then = now - dt.timedelta(days=10)
    await ensure_partitions(database, now=then)
    await store(database, project.id, *["click"] * 20, batch_id=UUID(int=id_at(then).int & ~0xFFFF))
    await store(database, project.id, *["click"] * 3)
    async with database.for_project(project.id) as connection:
        counting = Counting(connection)
        await list_events(counting, project.id, limit=5, now=now, wanted=EventFilter(event_type="click"))  # type: ignore[arg-type]
    assert counting.rows == 3 + 3 + 5


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "!" * 23, "é", "\x00", cursor_after(UUID(int=5))[:-1]])
def test_cursor_that_is_not_ours_names_its_field(cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_cursor(cursor)
    assert caught.value.problems[0].field == "cursor"


def test_cursor_of_another_version_is_refused() -> None:
    of_version_1 = cursor_after(UUID(int=5))
    assert read_cursor(of_version_1) == UUID(int=5)
    with pytest.raises(Invalid):
        read_cursor("Ag" + of_version_1[2:])


@pytest.mark.parametrize("at", [0, 1, (1 << 128) - 1])
async def test_cursor_at_either_end_of_ids_is_served(database: Database, project: Any, at: int) -> None:
    ids = await store(database, project.id, "click")
    listed = await page(database, project.id, cursor=cursor_after(UUID(int=at)))
    assert ids_of([listed]) == (ids if at > 1 else [])


async def test_failed_event_is_tried_again(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    await settle(database, project.id, ids, "failed")
    async with database.for_project(project.id) as connection:
        assert await retry_event(connection, project.id, ids[0]) == 1
    async with database.for_project(project.id) as connection:
        event = await get_event(connection, project.id, ids[0])
    assert (event.status, event.attempt, event.error, event.settled_at) == ("pending", 1, None, None)
    async with database.across_projects() as connection:
        row = await connection.fetchrow(
            "SELECT attempt, due_at <= now() AS due, last_published_at FROM event_retries WHERE event_id=$1",
            ids[0],
        )
    assert dict(row) == {"attempt": 1, "due": True, "last_published_at": None}
    # Settled and failed once more, it can be tried once more.
    assert await settle(database, project.id, ids, "failed", attempt=1) == set(ids)
    async with database.for_project(project.id) as connection:
        assert await retry_event(connection, project.id, ids[0]) == 2


@pytest.mark.parametrize("status", ["pending", "processed"])
async def test_event_that_did_not_fail_stays(database: Database, project: Any, status: str) -> None:
    ids = await store(database, project.id, "page_view")
    if status == "processed":
        await settle(database, project.id, ids, "processed")
    async with database.for_project(project.id) as connection:
        with pytest.raises(Conflict, match=status):
            await retry_event(connection, project.id, ids[0])
    async with database.across_projects() as connection:
        assert await connection.fetchval("SELECT count(*) FROM event_retries") == 0


async def test_event_of_another_project_is_not_tried_again(
    database: Database, project: Any, other_project: Any
) -> None:
    theirs = await store(database, other_project.id, "page_view")
    await settle(database, other_project.id, theirs, "failed")
    for named in (project.id, other_project.id):
        async with database.for_project(project.id) as connection:
            with pytest.raises(NotFound):
                await retry_event(connection, named, theirs[0])
    async with database.for_project(other_project.id) as connection:
        assert (await get_event(connection, other_project.id, theirs[0])).status == "failed"


async def test_of_two_retries_at_once_one_is_refused(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    await settle(database, project.id, ids, "failed")

    async def retry() -> int:
        async with database.for_project(project.id) as connection:
            return await retry_event(connection, project.id, ids[0])

    outcomes = await asyncio.gather(retry(), retry(), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "int"]


async def test_settling_an_earlier_attempt_leaves_a_retried_event(database: Database, project: Any) -> None:
    ids = await store(database, project.id, "page_view")
    await settle(database, project.id, ids, "failed")
    async with database.for_project(project.id) as connection:
        await retry_event(connection, project.id, ids[0])
    assert await settle(database, project.id, ids, "processed", attempt=0) == set()
    assert await settle(database, project.id, ids, "processed", attempt=1) == set(ids)
    async with database.across_projects() as connection:
        assert await connection.fetchval("SELECT count(*) FROM event_retries") == 0
