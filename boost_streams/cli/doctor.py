"""``boost doctor``: is everything there that Boost needs, and is every event accounted for."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Iterable

import asyncpg
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from boost_streams.cli.checks import Finding, check_database, check_kafka, check_redis
from boost_streams.errors import BoostError, ConfigurationError
from boost_streams.logs import configure_structlog
from boost_streams.settings import Settings, load_settings
from db import audit
from db.audit import BatchCount, UnaccountedEvent
from db.pool import Database

_COLOURS = {"ok": "green", "warn": "yellow", "error": "red"}


@click.command()
@click.option("--deep", is_flag=True, help="Read every event, and print the ids of those that nothing accounts for.")
def doctor(deep: bool) -> None:
    """Check settings, PostgreSQL, Kafka, Redis, workers and backlog; say what to do about each problem.

    Exits with 1 when there is an error, with 2 when settings are wrong; a warning is no error. It changes nothing.
    """
    configure_structlog()
    for name in ("aiokafka", "db.redis"):  # what they log is in the findings
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        settings = load_settings()
    except ConfigurationError as error:
        for problem in error.problems:
            _print(Finding("error", "settings", f"{problem.field} {problem.message}"))
        sys.exit(2)
    _print(Finding("ok", "settings", f"{settings.node_env}, roles {', '.join(settings.boost_roles)}"))
    sys.exit(asyncio.run(_examine(settings, deep)))


async def _examine(settings: Settings, deep: bool) -> int:
    """Run every check and print what it finds; return the exit code."""
    checks = [check_database(settings), check_kafka(settings), check_redis(settings)]
    errors = 0
    for found in await asyncio.gather(*map(_all, checks)):
        errors += _print_all(found)
    if deep:
        try:
            errors += _print_all(await _all(_examine_events(settings)))
        except (BoostError, asyncpg.PostgresError) as error:
            errors += _print_all([Finding("error", "events", f"not all could be read: {error}")])
    return 1 if errors else 0


async def _all(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


async def _examine_events(settings: Settings) -> AsyncIterator[Finding]:
    """Look for events that no batch and no retry will hand over, and for batches whose count is wrong."""
    database = Database(settings.database_url, pipeline_connections=1, tenant_connections=1)
    try:
        await database.open()
        lost = await _unaccounted(database)
        miscounted = [found async for found in audit.miscounted_batches_across_projects(database)]
    finally:
        await database.close()
    yield _of_events(lost)
    yield _of_batches(miscounted)


async def _unaccounted(database: Database) -> list[UnaccountedEvent]:
    """Read every partition chunk by chunk behind a progress bar; print each event found at once."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")
    async with database.across_projects() as connection:
        chunks = await audit.chunks_across_projects(connection)
    lost = []
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("events", total=sum(chunk.end - chunk.first for chunk in chunks))
        for chunk in chunks:
            bar.update(task, description=f"events of {chunk.day}")
            async with database.across_projects() as connection:
                found = await audit.unaccounted_events_across_projects(connection, chunk)
            for event in found:
                click.echo(f"project {event.project_id} event {event.event_id} attempt {event.attempt}")
            lost += found
            bar.advance(task, chunk.end - chunk.first)
    return lost


def _of_events(lost: list[UnaccountedEvent]) -> Finding:
    if not lost:
        return Finding("ok", "events", "each one is settled, or owned by a batch or a retry")
    advice = "they are stored, but nothing hands them over any more: report this with the ids above"
    return Finding("error", "events", f"{len(lost)} pending that nothing accounts for", advice)


def _of_batches(miscounted: list[BatchCount]) -> Finding:
    for batch in miscounted:
        click.echo(f"batch {batch.batch_id} counts {batch.unsettled} unsettled, {batch.pending} are pending")
    if any(batch.unsettled < batch.pending for batch in miscounted):
        advice = "their rows would go too early: report this with the ids above"
        return Finding("error", "batches", f"{len(miscounted)} count wrongly", advice)
    if miscounted:
        advice = "events were deleted with their project; the sweeper sets this right when they are due"
        return Finding("warn", "batches", f"{len(miscounted)} count too many", advice)
    return Finding("ok", "batches", "each counts its pending events")


def _print_all(findings: Iterable[Finding]) -> int:
    """Print findings and return how many are errors."""
    errors = 0
    for finding in findings:
        _print(finding)
        errors += finding.level == "error"
    return errors


def _print(finding: Finding) -> None:
    line = Text.assemble((f"{finding.level:<6}", _COLOURS[finding.level]), f"{finding.name:<12}", finding.message)
    console = Console(soft_wrap=True)
    console.print(line)
    if finding.advice:
        console.print(Text(f"{'':<18}→ {finding.advice}", style="dim"))
