"""`boost counters` against a real database."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from boost_streams.cli.main import cli
from db.pool import Database
from db.rollups import RollupKey, Source, add_across_projects

Run = Callable[..., Awaitable[Result]]
NOON = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
DAY = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


@pytest.fixture
def run(database_url: str, restored_logging: None) -> Run:
    async def invoke(*arguments: object) -> Result:
        given = ["counters", *(str(one) for one in arguments)]
        environment = {"NODE_ENV": "test", "DATABASE_URL": database_url, "COLUMNS": "40"}
        # A thread of its own: a command runs an event loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, cli, given, env=environment)

    return invoke


@pytest.fixture
async def counted(database: Database, project: Any, other_project: Any) -> None:
    """Page views by two versions of a handler, payments of the day before, and what is another project's."""

    def views(version: int) -> Source:
        return Source("page_view", "tracking", version)

    sold = Source("payment_completed", "payment", 1)
    yesterday = DAY - dt.timedelta(days=1)
    additions = {
        RollupKey(project.id, "events_per_hour", NOON, ("page_view", "processed")): (3, Decimal(0)),
        RollupKey(project.id, "page_views", DAY, ("", "/\x1b[31m"), views(1)): (1, Decimal(0)),
        RollupKey(project.id, "page_views", DAY, ("", "/\x1b[31m"), views(2)): (1_200, Decimal(0)),
        RollupKey(project.id, "revenue", yesterday, ("EUR",), sold): (2, Decimal("12.50")),
        RollupKey(project.id, "clicks", yesterday, ("buy",)): (0, Decimal(0)),
        RollupKey(other_project.id, "page_views", DAY, ("", "/other"), views(1)): (9, Decimal(0)),
    }
    async with database.across_projects() as connection:
        await add_across_projects(connection, additions, 0)


@pytest.mark.usefixtures("counted")
async def test_counters_are_shown_the_newest_first(run: Run, project: Any) -> None:
    shown = await run("--project", project.id)
    assert (shown.exit_code, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines() if "2026-" in line]
    assert rows == [
        ["events_per_hour", "2026-05-01", "12:00", "page_view,", "processed", "3", "0"],
        ["page_views", "2026-05-01", "00:00", "-,", "/�[31m", "1,201", "0"],
        ["revenue", "2026-04-30", "00:00", "EUR", "2", "12.5"],
    ]


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("arguments", "metrics"),
    [
        ((), ["events_per_hour", "page_views", "revenue"]),
        (("--metric", "page_views"), ["page_views"]),
        (("--metric", "nothing"), []),
        (("--from", "2026-05-01"), ["events_per_hour", "page_views"]),
        (("--to", "2026-05-01"), ["revenue"]),
        (("--metric", "revenue", "--from", "2026-04-30", "--to", "2026-05-01"), ["revenue"]),
    ],
)
async def test_counters_are_chosen_by_metric_and_day(
    run: Run, project: Any, arguments: tuple[str, ...], metrics: list[str]
) -> None:
    page = json.loads((await run("--project", project.id, "--json", *arguments)).stdout)
    assert ([one["metric"] for one in page["items"]], page["cutOff"]) == (metrics, False)


@pytest.mark.usefixtures("counted")
async def test_json_has_each_dimension_and_the_amount_exactly(run: Run, project: Any) -> None:
    page = json.loads((await run("--project", project.id, "--json", "--metric", "revenue")).stdout)
    bucket = "2026-04-30T00:00:00Z"
    [item] = page["items"]
    assert item == {"metric": "revenue", "bucket": bucket, "dimensions": ["EUR"], "count": 2, "amount": "12.5"}


@pytest.mark.usefixtures("counted")
async def test_what_is_cut_off_is_said(run: Run, project: Any) -> None:
    cut = await run("--project", project.id, "--limit", 2)
    assert "revenue" not in cut.stdout
    assert "cut off at 2, there are more: give --limit" in cut.stderr
    assert json.loads((await run("--project", project.id, "--limit", 2, "--json")).stdout)["cutOff"] is True
    assert (await run("--project", project.id, "--limit", 3)).stderr == ""


async def test_a_project_that_is_not_there_is_no_project_without_counts(run: Run) -> None:
    unknown = await run("--project", uuid4())
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "there is no project" in unknown.stderr
