"""``boost events``: a project's events as PostgreSQL holds them: listed, shown, tried again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar, get_args
from uuid import UUID

import click
import msgspec
from rich.text import Text

from boost_streams.cli.context import run_with_database, show_fields, show_json, show_table
from boost_streams.cli.project_option import project_option
from boost_streams.errors import RequestError
from boost_streams.settings import load_settings
from db import events as repository
from db.events import EventFilter, EventPage, Status, StoredEvent
from db.journey import Journey, Step, hosts_across_projects
from db.pool import Connection, Database
from web.journey import journey_as_json, read_journey
from web.queries import DEFAULT_LIMIT, LARGEST_LIMIT, event_as_json

T = TypeVar("T")

_COLUMNS = ("id", "type", "status", "attempt", "received", "actor", "error")
_STEP_COLUMNS = ("step", "at", "by", "worker", "attempt", "detail")
_COLOURS = {"pending": "yellow", "processed": "green", "failed": "red"}


@click.group()
def events() -> None:
    """List, show and retry a project's events. DATABASE_URL says where they are."""


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="JSON, as GET /events answers it.")(command)


@events.command("list")
@project_option()
@click.option("--status", type=click.Choice(get_args(Status)))
@click.option("--type", "event_type", help="Only events of this type.")
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, type=click.IntRange(1, LARGEST_LIMIT))
@click.option("--cursor", help="Go on where the page before ended.")
@_json_option
def list_(
    project_id: UUID, status: Status | None, event_type: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """List events, newest first."""
    now = dt.datetime.now(dt.UTC)

    async def look(connection: Connection) -> EventPage:
        wanted = EventFilter(status, event_type)
        return await repository.list_events(connection, project_id, limit=limit, now=now, wanted=wanted, cursor=cursor)

    page = _run(project_id, look)
    if as_json:
        show_json({"items": [event_as_json(event) for event in page.items], "nextCursor": page.next_cursor})
        return
    show_table(_COLUMNS, [_row(event) for event in page.items])
    if page.next_cursor is not None:
        click.echo(f"there may be more: --cursor {page.next_cursor}", err=True)


@events.command()
@click.argument("event_id", type=click.UUID)
@project_option()
@_json_option
def show(event_id: UUID, project_id: UUID, as_json: bool) -> None:
    """Show one event with its payload and its journey: received, committed, published, dispatched, settled."""

    async def look(database: Database) -> tuple[StoredEvent, Journey, dict[UUID, str]]:
        event, journey = await read_journey(database, load_settings(), project_id, event_id)
        async with database.across_projects() as connection:
            return event, journey, await hosts_across_projects(connection)

    event, journey, hosts = run_with_database(look)
    shape = event_as_json(event)
    if as_json:
        show_json({**shape, "journey": journey_as_json(event, journey)})
        return
    show_fields({name: None if value is None else readable(value) for name, value in shape.items()})
    show_table(_STEP_COLUMNS, [_step_row(step, hosts) for step in journey.steps])
    if journey.waiting_for is not None:
        due = f"; published again at {journey.due_at:%Y-%m-%d %H:%M:%S} UTC at the latest" if journey.due_at else ""
        click.echo(f"waits for {journey.waiting_for}{due}")


@events.command()
@click.argument("event_ids", metavar="EVENT_ID...", nargs=-1, required=True, type=click.UUID)
@project_option()
@_json_option
def retry(event_ids: tuple[UUID, ...], project_id: UUID, as_json: bool) -> None:
    """Hand failed events over again; the sweeper publishes them within seconds."""

    async def work(database: Database) -> list[int | RequestError]:
        return [await _retry(database, project_id, event_id) for event_id in event_ids]

    outcomes = run_with_database(work)
    for event_id, outcome in zip(event_ids, outcomes, strict=True):
        if isinstance(outcome, RequestError):
            click.echo(outcome.message, err=True)
        elif as_json:
            show_json({"id": event_id, "status": "pending", "attempt": outcome})
        else:
            click.echo(f"{event_id} pending, attempt {outcome}")
    if any(isinstance(outcome, RequestError) for outcome in outcomes):
        raise SystemExit(1)


async def _retry(database: Database, project_id: UUID, event_id: UUID) -> int | RequestError:
    try:
        async with database.for_project(project_id) as connection:
            return await repository.retry_event(connection, project_id, event_id)
    except RequestError as error:
        return error


def _run(project_id: UUID, look: Callable[[Connection], Awaitable[T]]) -> T:
    """Run one look at a project's events in a tenant transaction."""

    async def work(database: Database) -> T:
        async with database.for_project(project_id) as connection:
            return await look(connection)

    return run_with_database(work)


def _row(event: StoredEvent) -> tuple[object, ...]:
    return (
        event.id,
        readable(event.event_type),
        Text(event.status, style=_COLOURS[event.status]),
        event.attempt,
        event.received_at,
        readable(event.user_id or event.anonymous_id or event.session_id or "-"),
        _error_text(event),
    )


def _step_row(step: Step, hosts: Mapping[UUID, str]) -> tuple[object, ...]:
    return (
        step.step,
        f"{step.at:%Y-%m-%d %H:%M:%S.%f}" if step.at else "",
        step.by or "",
        "" if step.worker_id is None else hosts.get(step.worker_id, step.worker_id),
        "" if step.attempt is None else step.attempt,
        readable(step.detail or ""),
    )


def _error_text(event: StoredEvent) -> str:
    if event.error is None:
        return ""
    error = msgspec.json.decode(event.error)
    return readable(" ".join(str(error[name]) for name in ("field", "message") if error.get(name)))


def readable(value: object) -> str:
    """Write a value for a terminal. What clients sent may hold control characters: they are not passed on."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.format(bytes(value), indent=2).decode()
    text = f"{value:%Y-%m-%d %H:%M:%S.%f} UTC" if isinstance(value, dt.datetime) else str(value)
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
