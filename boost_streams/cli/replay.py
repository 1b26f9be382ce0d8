"""``boost replay``: stored events run again through their handler, at a rate, beside live traffic."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.handlers import load_registry
from agents.registry import Registry
from agents.replay import DEFAULT_RATE, count_replayed, create_replay, scope_of
from agents.replaying import Limits, Tell, Told, clear_cancelled, run_replay
from agents.services import HandlerServices
from boost_streams.cli.context import Command, command_settings, day_option, run_with_database, show_json, show_table
from boost_streams.cli.project_option import project_option
from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis
from db.replays import (
    FIRST_BUCKET,
    LAST_BUCKET,
    Replay,
    Scope,
    cancel_replay_across_projects,
    get_replay_across_projects,
    list_replays_across_projects,
)

_COLUMNS = ("id", "handler", "version", "types", "from", "to", "state", "counted", "refused", "created")


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="JSON.")(command)


@click.group(invoke_without_command=True)
@click.option("--handler", help="The handler whose events are run again.")
@click.option("--event-type", help="Only events of this type; its handler need not be named.")
@day_option("--from", "since", "From this UTC day on.")
@day_option("--to", "until", "Up to this UTC day, without it.")
@project_option(required=False, help_text="Only this project's events; its id or name.")
@click.option(
    "--rate",
    default=DEFAULT_RATE,
    show_default=True,
    type=click.IntRange(0),
    help="Events run again per second; 0: no limit.",
)
@click.option("--dry-run", is_flag=True, help="Only count the events.")
@_json
@click.pass_context
def replay(
    context: click.Context,
    handler: str | None,
    event_type: str | None,
    since: dt.datetime | None,
    until: dt.datetime | None,
    project_id: UUID | None,
    rate: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run stored events that were processed again through their handler, and count them anew.

    Days are those of the events' own time. Questions go on reading the old counters until everything is counted, then
    all at once the new ones. Raise VERSION in the handler and deploy it first. Interrupted, `boost replay resume` goes
    on where it was, and counts nothing twice.
    """
    if context.invoked_subcommand is not None:
        return None
    if handler is None and event_type is None:
        raise click.UsageError("give --handler or --event-type")
    since, until = since or FIRST_BUCKET, until or LAST_BUCKET
    if since >= until:
        raise click.UsageError("--from must lie before --to")
    settings = command_settings()
    registry = _registry(settings)
    scope = scope_of(registry, handler, event_type, since=since, until=until, project_id=project_id)
    if dry_run:
        days = settings.retention_days
        count = run_with_database(lambda database: count_replayed(database, scope, rate=rate, retention_days=days))
        return show_json({"count": count}) if as_json else click.echo(f"{count:,} events would be run again")
    number = run_with_database(lambda database: create_replay(database, scope, rate))
    click.echo(f"replay {number}: {_said(scope)}", err=True)
    return _run(settings, registry, number, None, as_json)


@replay.command("list")
@_json
def list_(as_json: bool) -> None:
    """List replays, the newest first."""

    async def work(database: Database) -> list[Replay]:
        async with database.across_projects() as connection:
            return await list_replays_across_projects(connection)

    found = run_with_database(work)
    if as_json:
        return show_json({"items": [_as_json(one) for one in found]})
    return show_table(_COLUMNS, [_row(one) for one in found])


@replay.command()
@click.argument("replay_id", metavar="ID", type=int)
@_json
def status(replay_id: int, as_json: bool) -> None:
    """Show replay ID."""
    found = run_with_database(lambda database: _get(database, replay_id))
    if as_json:
        return show_json(_as_json(found))
    show_table(_COLUMNS, [_row(found)])
    if found.problem:
        click.echo(f"it stopped: {found.problem}")
    return None


@replay.command()
@click.argument("replay_id", metavar="ID", type=int)
@click.option("--rate", type=click.IntRange(0), help="Events run again per second from now on.")
@_json
def resume(replay_id: int, rate: int | None, as_json: bool) -> None:
    """Go on with replay ID where it was."""
    settings = command_settings()
    _run(settings, _registry(settings), replay_id, rate, as_json)


@replay.command()
@click.argument("replay_id", metavar="ID", type=int)
def cancel(replay_id: int) -> None:
    """End replay ID for good, before questions read it; what it counted is deleted."""

    async def work(database: Database) -> None:
        async with database.across_projects() as connection:
            await cancel_replay_across_projects(connection, replay_id)
        await clear_cancelled(database, replay_id)

    run_with_database(work)
    click.echo(f"replay {replay_id} is cancelled")


def _registry(settings: Settings) -> Registry:
    try:
        return load_registry(settings.boost_handler_modules)
    except (ImportError, TypeError, ValueError) as error:
        raise click.ClickException(f"BOOST_HANDLER_MODULES: {error}") from None


async def _get(database: Database, replay_id: int) -> Replay:
    async with database.across_projects() as connection:
        return await get_replay_across_projects(connection, replay_id)


def _run(settings: Settings, registry: Registry, number: int, rate: int | None, as_json: bool) -> None:
    """Work on a replay under a bar, and say what came of it."""
    limits = Limits(settings.handler_failing_share, settings.handler_failing_least, settings.retention_days)

    async def work(database: Database, tell: Tell) -> Replay:
        redis = Redis(settings.redis_url)
        try:
            services = HandlerServices(settings, database, redis)
            return await run_replay(database, registry, services, number, limits=limits, rate=rate, tell=tell)
        finally:
            await redis.close()

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.fields[counted]:,} counted"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, counted=0)

        def tell(told: Told) -> None:
            bar.update(task, completed=told.share, counted=told.replay.events_counted)

        done = run_with_database(lambda database: work(database, tell))
    if as_json:
        return show_json(_as_json(done))
    refused = f", {done.events_refused:,} refused" if done.events_refused else ""
    return click.echo(f"replay {done.id} is {done.state}: {done.events_counted:,} events counted{refused}")


def _types(scope: Scope) -> str:
    named = ", ".join(scope.event_types)
    return f"all but {named}" if scope.all_others else named


def _said(scope: Scope) -> str:
    days = f"{_shown_day(scope.since) or 'the beginning'} to {_shown_day(scope.until) or 'now'}"
    return f"{_types(scope)} through {scope.handler}, version {scope.version}, {days}"


def _shown_day(bound: dt.datetime) -> str | None:
    return None if bound in (FIRST_BUCKET, LAST_BUCKET) else f"{bound:%Y-%m-%d}"


def _row(one: Replay) -> tuple[object, ...]:
    scope = one.scope
    days = (_shown_day(scope.since), _shown_day(scope.until))
    counts = (f"{one.events_counted:,}", f"{one.events_refused:,}")
    return one.id, scope.handler, scope.version, _types(scope), *days, one.state, *counts, one.created_at


def _as_json(one: Replay) -> dict[str, Any]:
    scope = one.scope
    return {
        "id": one.id,
        "handler": scope.handler,
        "version": scope.version,
        "eventTypes": scope.event_types,
        "allOthers": scope.all_others,
        "from": _shown_day(scope.since),
        "to": _shown_day(scope.until),
        "projectId": scope.project_id,
        "rate": one.rate,
        "state": one.state,
        "eventsRead": one.events_read,
        "eventsCounted": one.events_counted,
        "eventsRefused": one.events_refused,
        "problem": one.problem,
        "createdAt": one.created_at,
        "workedAt": one.worked_at,
        "switchedAt": one.switched_at,
        "endedAt": one.ended_at,
    }
