"""The hot statements keep to one partition and its primary key, whatever was cached or analysed.

Thirty days of events, the next day's partition empty and analysed: there a plan made from statistics reads in
sequence, and a cached plan goes on doing so while the partition fills.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from boost_streams.event_id import event_ids, first_id_of_day, id_at, last_of, new_batch_id
from db import batches, dead_letters, events, intake, replaying, retention, settlement, unreadable
from db.new_events import NewEvent, message_key
from db.partitions import ensure_partitions
from db.pool import Database

DAYS = 30
EVENTS_A_DAY = 1_000
EVENTS_A_BATCH = 100
MODES = ("force_custom_plan", "force_generic_plan")
ROLES = {"boost_pipeline": "across_projects", "boost_tenant": "for_project"}

FILL = """
INSERT INTO events (id, project_id, event_type, status, payload, occurred_at)
SELECT (lpad(to_hex($1::bigint + n * 1000), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid, $2,
       'page_view', CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'processed' END, '{"url": "/x"}', now()
FROM generate_series(1, $3::int) AS n
"""


@dataclass(frozen=True)
class Month:
    """Thirty days with events, and the next one without."""

    database: Database
    project_id: UUID
    today: dt.date
    tomorrow: dt.date
    other_project_id: UUID
    #: A day whose partition has events and was never analysed, as every day's is when it begins.
    new_day: dt.date

    def ids(self, day: dt.date) -> list[UUID]:
        first = id_at(dt.datetime(day.year, day.month, day.day, 3, tzinfo=dt.UTC)).int
        return [UUID(int=first + n) for n in range(EVENTS_A_BATCH)]


@pytest.fixture
async def month(database: Database, project: Any, other_project: Any) -> Month:
    async with database.across_projects() as connection:
        now: dt.datetime = await connection.fetchval("SELECT now()")
    for back in range(DAYS, -1, -1):
        await ensure_partitions(database, now=now - dt.timedelta(days=back))
    async with database.across_projects() as connection:
        for back in range(DAYS):
            midnight_ms = first_id_of_day(now.date() - dt.timedelta(days=back)).int >> 80
            for filled in (project, other_project):
                await connection.execute(FILL, midnight_ms + (filled is project), filled.id, EVENTS_A_DAY)
    owner = await database.connect(role="boost_owner")
    try:
        await owner.execute("ANALYZE events")
    finally:
        await owner.close()
    ahead = now + dt.timedelta(days=5)
    await ensure_partitions(database, now=ahead)
    async with database.across_projects() as connection:
        for filled in (project, other_project):
            first_ms = (first_id_of_day(ahead.date()).int >> 80) + (filled is project)
            await connection.execute(FILL, first_ms, filled.id, 5 * EVENTS_A_DAY)
    return Month(database, project.id, now.date(), now.date() + dt.timedelta(days=1), other_project.id, ahead.date())


def literal(value: Any, kind: str) -> str:
    if value is None:
        return f"NULL::{kind}"
    if isinstance(value, list):
        return "ARRAY[" + ", ".join(literal(item, kind[:-2]) for item in value) + f"]::{kind}"
    return f"'{value}'::{kind}"


async def explain(connection: Any, statement: str, arguments: list[tuple[Any, str]], mode: str) -> Any:
    """Run a prepared statement under EXPLAIN ANALYZE, rolled back, and return its plan."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
        kinds = ", ".join(kind for _, kind in arguments)
        await connection.execute(f"PREPARE hot ({kinds}) AS {statement}")
        values = ", ".join(literal(value, kind) for value, kind in arguments)
        plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE hot ({values})")
        return json.loads(plan)[0]["Plan"]
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE ALL")
        await connection.reload_schema_state()


def nodes(plan: Any) -> list[Any]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def scans_of_events(plan: Any) -> list[Any]:
    """Return the nodes that did read partitions of `events`."""
    return [
        node
        for node in nodes(plan)
        if re.fullmatch(r"events_\d{8}", node.get("Relation Name", ""))
        and node["Node Type"] != "ModifyTable"
        and node["Actual Loops"] > 0
    ]


def assert_reads_by_key(plan: Any, *, partitions: int) -> None:
    """Assert that few partitions are read, each through its primary key, project first."""
    scans = scans_of_events(plan)
    text = json.dumps(plan, indent=1)
    assert scans, text
    assert not [node for node in nodes(plan) if node["Node Type"] == "Seq Scan"], text
    assert len({scan["Relation Name"] for scan in scans}) <= partitions, text
    for scan in scans:
        assert scan["Node Type"] in ("Index Scan", "Index Only Scan"), text
        assert "project_id = " in scan["Index Cond"], text


def move(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    key = [(month.project_id, "uuid"), (month.ids(day)[0], "uuid")]
    return [*key, (0, "int"), ("processed", "text"), (0, "int"), (None, "jsonb"), (0, "int")]


_COUNTERS = """
SELECT coalesce(sum(seq_scan), 0)::int AS in_sequence, coalesce(sum(idx_tup_fetch), 0)::int AS by_index,
       coalesce(sum(n_tup_upd), 0)::int AS updated
FROM pg_stat_xact_user_tables WHERE relname ~ '^events_[0-9]{8}$'
"""


async def pending_batches(connection: Any, month: Month, day: dt.date) -> dict[UUID, list[UUID]]:
    """Store batches of pending events far apart within a day, between what is there, two projects in each batch."""
    ids: dict[UUID, list[UUID]] = {month.project_id: [], month.other_project_id: []}
    for number in range(10):
        first = id_at(
            dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC) + dt.timedelta(seconds=number, milliseconds=500)
        ).int
        for n, project_id in enumerate([*ids] * 5):
            ids[project_id].append(UUID(int=(first & ~0xFFFF) + n))
    for project_id, of_project in ids.items():
        await connection.execute(
            "INSERT INTO events (id, project_id, event_type, payload, occurred_at) "
            "SELECT id, $2, 'page_view', '{}', now() FROM unnest($1::uuid[]) AS id",
            of_project,
            project_id,
        )
    return ids


@pytest.mark.parametrize("every", [1, 3])
async def test_settling_in_one_call_reads_its_batches_and_nothing_else(month: Month, every: int) -> None:
    """Counters of the transaction tell what the statements within the function read."""
    for day in (month.today, month.tomorrow, month.new_day):
        async with month.database.across_projects() as connection:
            stored = await pending_batches(connection, month, day)
            ids = {project_id: of_project[::every] for project_id, of_project in stored.items()}
            settled = sum(map(len, ids.values()))
            async with connection.transaction():
                before = await connection.fetchrow(_COUNTERS)
                done = settlement.FirstAttempts(ids, {ids[month.project_id][0]: b"{}"}, [], {})
                assert await settlement.settle_across_projects(connection, done)
                after = await connection.fetchrow(_COUNTERS)
        read = {name: after[name] - before[name] for name in after.keys()}  # noqa: SIM118 - a record, not a dict
        assert read["in_sequence"] == 0
        assert read["updated"] == settled
        assert settled <= read["by_index"] <= 100


def pending_of_batch(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    first = month.ids(day)[0]
    return [([month.project_id], "uuid[]"), (first, "uuid"), (last_of(first), "uuid")]


def pending_of_retries(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    ids = month.ids(day)
    pairs = [([month.project_id] * len(ids), "uuid[]"), (ids, "uuid[]"), ([1] * len(ids), "int[]")]
    return [*pairs, (min(ids), "uuid"), (max(ids), "uuid")]


def piece_of(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    """A replay that stands at the beginning of the last day that it reads; that may be empty."""
    end = UUID(int=first_id_of_day(day + dt.timedelta(days=1)).int - 1)
    return [(month.project_id, "uuid"), (first_id_of_day(day), "uuid"), (end, "uuid"), (500, "bigint")]


def replayed(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    first = first_id_of_day(day)
    bounds = [(first, "uuid"), (UUID(int=first.int + (600_000 << 80)), "uuid")]
    times = [(dt.datetime(year, 1, 1, tzinfo=dt.UTC), "timestamptz") for year in (2000, 2101)]
    return [(month.project_id, "uuid"), *bounds, (1, "int"), (["page_view"], "text[]"), (False, "boolean"), *times]


def by_id(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    return [(month.project_id, "uuid"), (month.ids(day)[0], "uuid")]


def by_ids(month: Month, day: dt.date) -> list[tuple[Any, str]]:
    ids = month.ids(day)
    return [
        (month.project_id, "uuid"), (ids, "uuid[]"), (min(ids), "uuid"), (max(ids), "uuid"), (None, "text")
    ]  # fmt: skip


Arguments = Callable[[Month, dt.date], list[tuple[Any, str]]]


@pytest.mark.parametrize(
    ("statement", "arguments", "role"),
    [
        pytest.param(settlement._MOVE, move, "boost_pipeline", id="settle"),
        pytest.param(batches._PENDING_OF_BATCH, pending_of_batch, "boost_pipeline", id="sweep-batch"),
        pytest.param(batches._COUNT_PENDING, pending_of_batch, "boost_pipeline", id="reconcile-batch"),
        pytest.param(batches._PENDING_OF_RETRIES, pending_of_retries, "boost_pipeline", id="sweep-retries"),
        pytest.param(replaying._END_OF_PIECE, piece_of, "boost_pipeline", id="replay-piece"),
        pytest.param(replaying._READ, replayed, "boost_pipeline", id="replay-read"),
        pytest.param(events._BY_ID, by_id, "boost_tenant", id="by-id"),
        pytest.param(events._BY_IDS, by_ids, "boost_tenant", id="by-ids"),
        pytest.param(events._RETRY, by_id, "boost_tenant", id="retry"),
        pytest.param(events._STATUS, by_id, "boost_tenant", id="status"),
    ],
)
async def test_statement_reads_one_partition_by_key(
    month: Month, statement: str, arguments: Arguments, role: str
) -> None:
    for day in (month.today, month.tomorrow):
        for mode in MODES:
            plan = await explain_as(role, month, lambda c, d=day, m=mode: explain(c, statement, arguments(month, d), m))
            assert_reads_by_key(plan, partitions=1)


async def explain_as(role: str, month: Month, run: Callable[[Any], Awaitable[Any]]) -> Any:
    if role == "boost_tenant":
        async with month.database.for_project(month.project_id) as connection:
            return await run(connection)
    async with month.database.across_projects() as connection:
        return await run(connection)


def scan(
    month: Month, low: UUID, high: UUID, wanted: str | None, window: int, enough: int = 201
) -> list[tuple[Any, str]]:
    return [
        (month.project_id, "uuid"),
        (low, "uuid"),
        (high, "uuid"),
        (wanted, "text"),
        (None, "text"),
        (window, "bigint"),
        (enough, "bigint"),
    ]


def rows_read(plan: Any) -> int:
    return round(sum(node["Actual Rows"] * node["Actual Loops"] for node in scans_of_events(plan)))


@pytest.mark.parametrize("mode", MODES)
async def test_list_reads_no_more_than_its_window_of_thirty_days(month: Month, mode: str) -> None:
    window = 1_500
    everything = scan(month, events._OLDEST, events._NEWEST, "pending", window)
    plan = await explain_as("boost_tenant", month, lambda c: explain(c, events._SCAN, everything, mode))
    assert_reads_by_key(plan, partitions=100)
    assert not [node for node in nodes(plan) if "Sort" in node["Node Type"]], json.dumps(plan, indent=1)
    assert 0 < rows_read(plan) <= window


@pytest.mark.parametrize("mode", MODES)
async def test_list_reads_no_further_than_it_found_enough(month: Month, mode: str) -> None:
    """One in fifty failed: five of them stand within 250 events, and one more is read to know of a last one."""
    five = scan(month, events._OLDEST, events._NEWEST, "failed", 1_500, enough=5)
    plan = await explain_as("boost_tenant", month, lambda c: explain(c, events._SCAN, five, mode))
    assert_reads_by_key(plan, partitions=100)
    assert plan["Actual Rows"] == 5
    assert 200 < rows_read(plan) <= 251


@pytest.mark.parametrize("mode", MODES)
async def test_list_of_one_day_reads_one_partition(month: Month, mode: str) -> None:
    for day in (month.today, month.tomorrow):
        bounds = first_id_of_day(day), first_id_of_day(day + dt.timedelta(days=1))
        of_day = scan(month, *bounds, None, 50)
        plan = await explain_as("boost_tenant", month, lambda c, a=of_day: explain(c, events._SCAN, a, mode))
        assert_reads_by_key(plan, partitions=1)


FILL_LETTERS = """
INSERT INTO dead_letters (project_id, id, event_type, handler, code, message, attempts, last_failed_at)
SELECT $1, gen_random_uuid(), 'page_view', 'tracking', 'missing', 'x', 1, now() - make_interval(secs => n)
FROM generate_series(1, $2::int) AS n
"""
FILTER: list[tuple[Any, str]] = [("open", "text"), ("page_view", "text"), (None, "text"), (None, "text")]
LETTERS_BY_TIME = "dead_letters_by_time"
LETTERS_BY_ID = "dead_letters_project_id_id_key"


def letter_bounds(month: Month) -> list[tuple[Any, str]]:
    day = dt.datetime.combine(month.today, dt.time(), dt.UTC)
    return [(day - dt.timedelta(days=9), "timestamptz"), (day + dt.timedelta(days=9), "timestamptz")]


@pytest.fixture
async def many_letters(database: Database, project: Any, other_project: Any) -> Month:
    """A table of letters of two projects and of none."""
    async with database.across_projects() as connection:
        for project_id, count in ((project.id, 3_000), (other_project.id, 3_000), (None, 300)):
            await connection.execute(FILL_LETTERS, project_id, count)
        today = (await connection.fetchval("SELECT now()")).date()
    owner = await database.connect(role="boost_owner")
    try:
        await owner.execute("ANALYZE dead_letters")
    finally:
        await owner.close()
    return Month(database, project.id, today, today, other_project.id, today)


@pytest.mark.parametrize("mode", MODES)
async def test_letters_are_read_in_the_order_of_their_index(many_letters: Month, mode: str) -> None:
    since, until = letter_bounds(many_letters)
    project = (many_letters.project_id, "uuid")
    newest = [project, *FILTER, until, (events._OLDEST, "uuid"), since, (500, "bigint"), (50, "bigint")]
    oldest = [project, *FILTER, since, (events._OLDEST, "uuid"), until, (500, "bigint"), (50, "bigint")]
    for statement, arguments in ((dead_letters._NEWEST_FIRST, newest), (dead_letters._OLDEST_FIRST, oldest)):
        run = lambda c, s=statement, a=arguments: explain(c, s, a, mode)  # noqa: E731
        plan = await explain_as("boost_tenant", many_letters, run)
        assert [node["Index Name"] for node in nodes(plan) if "Index Name" in node] == [LETTERS_BY_TIME]
        assert not [node for node in nodes(plan) if "Sort" in node["Node Type"]], json.dumps(plan, indent=1)
        (scan,) = [node for node in nodes(plan) if node.get("Index Name")]
        assert scan["Actual Rows"] <= 500
        assert "last_failed_at" in scan["Index Cond"]


@pytest.mark.parametrize("mode", MODES)
async def test_what_failed_is_read_from_its_letters_newest_first(many_letters: Month, mode: str) -> None:
    looked = scan(many_letters, events._OLDEST, events._NEWEST, "failed", 500, enough=50)
    run = lambda c: explain(c, events._SCAN_LETTERS, looked, mode)  # noqa: E731
    plan = await explain_as("boost_tenant", many_letters, run)
    assert [node["Index Name"] for node in nodes(plan) if "Index Name" in node] == [LETTERS_BY_ID]
    assert not [node for node in nodes(plan) if "Sort" in node["Node Type"]], json.dumps(plan, indent=1)
    (index,) = [node for node in nodes(plan) if node.get("Index Name")]
    assert index["Scan Direction"] == "Backward"
    assert 50 <= index["Actual Rows"] <= 51


@pytest.mark.parametrize("mode", MODES)
async def test_letters_are_never_read_in_sequence(many_letters: Month, mode: str) -> None:
    since, until = letter_bounds(many_letters)
    project, ids = (many_letters.project_id, "uuid"), ([many_letters.project_id], "uuid[]")
    tenant: list[tuple[str, list[tuple[Any, str]]]] = [
        (dead_letters._BY_ID, [project, (events._OLDEST, "uuid")]),
        (dead_letters._BY_IDS, [project, ids]),
        (dead_letters._COUNT, [project, *FILTER, since, until]),
        (dead_letters._IN_STATUS, [project, ids, (["open"], "text[]")]),
        (dead_letters._DISCARD, [project, ids]),
    ]
    pipeline: list[tuple[str, list[tuple[Any, str]]]] = [
        (retention._DELETE_LETTERS, [project, (events._NEWEST, "uuid"), (10, "bigint")]),
        (retention._DELETE_CLOSED_LETTERS, [until, (10, "bigint")]),
        (retention._DELETE_UNREADABLE, [until, (10, "bigint")]),
        (unreadable._LIST, [(10, "bigint")]),
        (unreadable._BY_ID, [(events._OLDEST, "uuid")]),
        (unreadable._DISCARD, [ids]),
    ]
    for role, statements in (("boost_tenant", tenant), ("boost_pipeline", pipeline)):
        for statement, arguments in statements:
            plan = await explain_as(role, many_letters, lambda c, s=statement, a=arguments: explain(c, s, a, mode))
            scans = [node for node in nodes(plan) if node.get("Relation Name") == "dead_letters"]
            assert scans, statement
            assert not [node for node in scans if node["Node Type"] == "Seq Scan"], json.dumps(plan, indent=1)


FILL_ROLLUPS = """
INSERT INTO rollups (project_id, metric, bucket_start, key, dimensions, count, event_type, handler, version, cutover)
SELECT $1, 'm' || n % 7, date_trunc('day', now()) - make_interval(days => n % 60), gen_random_uuid(), ARRAY[n::text], 1,
    CASE WHEN n % 3 = 0 THEN 'page_view' ELSE 'click' END, 'tracking', 1, n % 2
FROM generate_series(1, 6000) AS n
"""
QUESTION = """
SELECT metric, bucket_start, dimensions, count, amount FROM current_rollups
WHERE project_id = $1 AND metric = $2 AND bucket_start >= $3 AND bucket_start < $4
"""


@pytest.fixture
async def many_counters(database: Database, project: Any, other_project: Any) -> Month:
    """Counters of two projects, and a switch of each."""
    async with database.across_projects() as connection:
        for one in (project, other_project):
            await connection.execute(FILL_ROLLUPS, one.id)
            await connection.execute(
                "INSERT INTO rollup_switches (project_id, cutover, event_types, all_others, since, until) "
                "VALUES ($1, 1, '{page_view}', false, '2000-01-01Z', '2101-01-01Z')",
                one.id,
            )
        today = (await connection.fetchval("SELECT now()")).date()
    owner = await database.connect(role="boost_owner")
    try:
        await owner.execute("ANALYZE rollups")
    finally:
        await owner.close()
    return Month(database, project.id, today, today, other_project.id, today)


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_reads_a_range_of_counters(many_counters: Month, mode: str) -> None:
    since, until = letter_bounds(many_counters)
    asked = [(many_counters.project_id, "uuid"), ("m1", "text"), since, until]
    plan = await explain_as("boost_tenant", many_counters, lambda c: explain(c, QUESTION, asked, mode))
    (scan,) = [node for node in nodes(plan) if node.get("Relation Name") == "rollups"]
    assert "bucket_start" in scan["Index Cond"], json.dumps(plan, indent=1)
    assert scan["Actual Rows"] * scan["Actual Loops"] < 300
    (deltas,) = [node for node in nodes(plan) if node.get("Relation Name") == "rollup_deltas"]
    assert "id > " in deltas["Index Cond"], json.dumps(plan, indent=1)
    whole = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert whole <= {"rollup_folds"}, "a table of one row"


@pytest.mark.parametrize("mode", MODES)
async def test_clearing_away_reads_a_piece_of_counters(many_counters: Month, mode: str) -> None:
    since, until = letter_bounds(many_counters)
    after = [("m2", "text"), since, (events._OLDEST, "uuid")]
    scope = [(False, "boolean"), (1, "int"), since, until, (["page_view"], "text[]"), (False, "boolean")]
    arguments = [(many_counters.project_id, "uuid"), *after, *scope, (100, "bigint")]
    plan = await explain_as("boost_pipeline", many_counters, lambda c: explain(c, replaying._CLEAR, arguments, mode))
    scans = [node for node in nodes(plan) if node.get("Relation Name") == "rollups" and "Index Name" in node]
    assert len(scans) == 2, json.dumps(plan, indent=1)
    for scan in scans:
        assert "project_id = " in scan["Index Cond"]
        assert scan["Actual Rows"] * scan["Actual Loops"] <= 101, json.dumps(plan, indent=1)
    assert not [node for node in nodes(plan) if node["Node Type"] == "Seq Scan"], json.dumps(plan, indent=1)


@pytest.mark.parametrize("mode", MODES)
async def test_a_piece_of_a_replay_reads_no_more_than_itself(month: Month, mode: str) -> None:
    """It stands thirty days back: the days after its piece are opened, and not read."""
    month_ago = first_id_of_day(month.today - dt.timedelta(days=DAYS))
    asked = [(month.project_id, "uuid"), (month_ago, "uuid"), (events._NEWEST, "uuid"), (500, "bigint")]
    plan = await explain_as("boost_pipeline", month, lambda c: explain(c, replaying._END_OF_PIECE, asked, mode))
    assert_reads_by_key(plan, partitions=3)
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans_of_events(plan)) == 500


@pytest.mark.parametrize("mode", MODES)
async def test_a_replay_is_planned_by_the_newest_id_of_each_project(month: Month, mode: str) -> None:
    asked: list[tuple[Any, str]] = [(None, "uuid")]
    plan = await explain_as("boost_pipeline", month, lambda c: explain(c, replaying._PROJECTS, asked, mode))
    read = sum(node["Actual Rows"] * node["Actual Loops"] for node in scans_of_events(plan))
    assert read <= 2 * (DAYS + 6)
    assert not [node for node in scans_of_events(plan) if node["Node Type"] == "Seq Scan"], json.dumps(plan, indent=1)


def commit_of(project: Any, message_ids: list[str]) -> list[tuple[Any, str]]:
    """Return the arguments that store an event for each messageId."""
    batch = new_batch_id()
    rows = [
        f"({event_id},{project.id},page_view,,,,{message_id},{{}},,,{message_key(project.id, message_id)})"
        for event_id, message_id in zip(event_ids(batch, len(message_ids)), message_ids, strict=True)
    ]
    return [
        (rows, "boost_new_event[]"),
        (batch, "uuid"),
        (UUID(int=1), "uuid"),
        (1, "bigint"),
        ([project.id], "uuid[]"),
        (last_of(batch), "uuid"),
        (len(rows), "integer"),
        (60, "float8"),
        (intake.GENERATION_LOCK, "bigint"),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_an_event_is_not_compared_with_every_known_key(database: Database, project: Any, mode: str) -> None:
    """A commit that an SDK sends again has as many known keys as events: a join would go through n × n of them."""
    names = [f"m{number}" for number in range(100)]
    first = [NewEvent(project.id, "page_view", b"{}", message_id=name) for name in names]
    batch = new_batch_id()
    async with database.across_projects() as connection:
        await intake.store_batch_across_projects(
            connection, batch, first, worker_id=UUID(int=1), seq=0, stuck_after_seconds=60
        )
        plan = await explain(connection, intake._STORE_WITH_KEYS, commit_of(project, [*names, "new"]), mode)
    scans = [node for node in nodes(plan) if node.get("CTE Name") == "known"]
    assert scans, json.dumps(plan, indent=1)
    assert {node["Actual Loops"] for node in scans} == {1}, json.dumps(plan, indent=1)
    (stored,) = [node for node in nodes(plan) if node.get("Subplan Name") == "CTE stored"]
    assert stored["Plans"][0]["Actual Rows"] == 1
