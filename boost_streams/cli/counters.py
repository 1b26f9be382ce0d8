"""``boost counters``: what a project's events were counted as."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import click

from boost_streams.cli.context import day_option, run_with_database, show_json, show_table
from boost_streams.cli.events import readable
from boost_streams.cli.project_option import project_option
from db.counters import Counter, list_counters
from db.pool import Database
from db.projects import get_project_across_projects
from db.replays import FIRST_BUCKET, LAST_BUCKET

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 10_000

_COLUMNS = ("metric", "bucket (UTC)", "dimensions", "count", "amount")


@click.command()
@project_option()
@click.option("--metric", help="Only this metric, such as page_views.")
@day_option("--from", "since", "From this UTC day on.")
@day_option("--to", "until", "Up to this UTC day, without it.")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, type=click.IntRange(1, LARGEST_LIMIT))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def counters(
    project_id: UUID,
    metric: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what was counted per metric, hour or UTC day, and dimensions: the newest first.

    Counters are those that questions read, the view `current_rollups`. DATABASE_URL says where they are.
    """

    async def work(database: Database) -> list[Counter]:
        async with database.across_projects() as connection:
            await get_project_across_projects(connection, project_id)
        bounds = {"since": since or FIRST_BUCKET, "until": until or LAST_BUCKET}
        async with database.for_project(project_id) as connection:
            return await list_counters(connection, project_id, **bounds, limit=limit + 1, metric=metric)

    found = run_with_database(work)
    shown, cut_off = found[:limit], len(found) > limit
    if as_json:
        show_json({"items": [_as_plain(one) for one in shown], "cutOff": cut_off})
    else:
        show_table(_COLUMNS, [_row(one) for one in shown], right=("count", "amount"))
    if cut_off:
        click.echo(
            f"cut off at {limit}, there are more: give --limit, or ask for less with --metric, --from and --to",
            err=True,
        )


def _row(one: Counter) -> tuple[str, ...]:
    dimensions = ", ".join(readable(text) if text else "-" for text in one.dimensions)
    return readable(one.metric), f"{one.bucket_start:%Y-%m-%d %H:%M}", dimensions, f"{one.count:,}", _plain(one)


def _as_plain(one: Counter) -> dict[str, object]:
    return {
        "metric": one.metric,
        "bucket": one.bucket_start,
        "dimensions": one.dimensions,
        "count": one.count,
        "amount": _plain(one),
    }


def _plain(one: Counter) -> str:
    """Write an amount exactly, without zeros at its end."""
    text = f"{one.amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
