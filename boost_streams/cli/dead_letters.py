"""``boost dead-letters``: what failed for good: listed, shown, replayed, discarded."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any, get_args
from uuid import UUID

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from boost_streams.cli.context import Command, run_with_database, show_fields, show_json, show_table
from boost_streams.cli.events import readable
from boost_streams.cli.project_option import project_option
from boost_streams.errors import Invalid
from db import dead_letters as repository
from db import unreadable as unreadable_messages
from db.dead_letters import LetterFilter, LetterPage, Status, StoredLetter
from db.pool import Database
from db.unreadable import UnreadableMessage
from web.dead_letters import Change, count, letter_as_json, work_through
from web.formats.client_clock import read_timestamp
from web.letter_filters import DEFAULT_LIMIT, DISCARDABLE, LARGEST_LIMIT, REPLAYABLE, Selection

_COLUMNS = ("id", "type", "handler", "status", "attempts", "failed", "error")


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, replay and discard dead letters. DATABASE_URL says where they are."""


def _time(_: click.Context, parameter: click.Parameter, value: str | None) -> dt.datetime | None:
    try:
        return None if value is None else read_timestamp(value)
    except Invalid as error:
        raise click.BadParameter(error.problems[0].message, param=parameter) from None


def _project_or_unreadable(command: Command) -> Command:
    command = click.option(
        "--unreadable", is_flag=True, help="Messages that nobody could read; they are of no project."
    )(command)
    return project_option(required=False)(command)


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="JSON, as HTTP answers it.")(command)


def _filters(command: Command) -> Command:
    for option in (
        click.option("--to", "until", callback=_time, help="Failed before this time, ISO 8601."),
        click.option("--from", "since", callback=_time, help="Failed at this time or later, ISO 8601."),
        click.option("--code", help="Failed with this code."),
        click.option("--handler", help="Failed by this handler."),
        click.option("--type", "event_type", help="Events of this type."),
    ):
        command = option(command)
    return command


@dead_letters.command("list")
@_project_or_unreadable
@click.option("--status", type=click.Choice(get_args(Status)))
@_filters
@click.option("--limit", default=DEFAULT_LIMIT, show_default=True, type=click.IntRange(1, LARGEST_LIMIT))
@click.option("--cursor", help="Go on where the page before ended.")
@_json
def list_(
    project_id: UUID | None, unreadable: bool, limit: int, cursor: str | None, as_json: bool, **wanted: Any
) -> None:
    """List dead letters, those that failed last first."""
    if unreadable:
        return _list_unreadable(project_id, limit, as_json)
    owner = _one_of(project_id, unreadable)

    async def work(database: Database) -> LetterPage:
        async with database.for_project(owner) as connection:
            return await repository.list_letters(
                connection, owner, limit=limit, wanted=LetterFilter(**wanted), cursor=cursor
            )

    page = run_with_database(work)
    if as_json:
        return show_json({"items": [letter_as_json(one) for one in page.items], "nextCursor": page.next_cursor})
    show_table(_COLUMNS, [_row(letter) for letter in page.items])
    if page.next_cursor is not None:
        click.echo(f"there may be more: --cursor {page.next_cursor}", err=True)
    return None


@dead_letters.command()
@click.argument("letter_id", metavar="ID", type=click.UUID)
@_project_or_unreadable
@_json
def show(letter_id: UUID, project_id: UUID | None, unreadable: bool, as_json: bool) -> None:
    """Show the dead letter ID with its history; the id is its event's."""
    shape = _unreadable_as_json(_get_unreadable(project_id, letter_id)) if unreadable else None
    if shape is None:
        owner = _one_of(project_id, unreadable)

        async def work(database: Database) -> StoredLetter:
            async with database.for_project(owner) as connection:
                return await repository.get_letter(connection, owner, letter_id)

        shape = letter_as_json(run_with_database(work))
    if as_json:
        return show_json(shape)
    return show_fields({name: _shown(value) for name, value in shape.items()})


@dead_letters.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID)
@project_option()
@_filters
@click.option("--status", type=click.Choice(REPLAYABLE), default=REPLAYABLE[0], show_default=True)
@click.option("--all", "everything", is_flag=True, help="All of that status, where no filter is given.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@_json
def replay(
    ids: tuple[UUID, ...], project_id: UUID, everything: bool, dry_run: bool, as_json: bool, **wanted: Any
) -> None:
    """Hand the events of dead letters over again: those named, or those of a filter.

    Interrupted, what was handed over stays so; run it again for the rest. What fails again meanwhile is not taken
    twice.
    """
    selection = _selection(ids, wanted, everything, REPLAYABLE)
    _work(project_id, selection, repository.replay_letters, "replayed", dry_run, as_json)


@dead_letters.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID)
@_project_or_unreadable
@_filters
@click.option("--all", "everything", is_flag=True, help="All that are open, where no filter is given.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@_json
def discard(
    ids: tuple[UUID, ...],
    project_id: UUID | None,
    unreadable: bool,
    everything: bool,
    dry_run: bool,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Close open dead letters: those named, or those of a filter. Their events stay failed."""
    if unreadable:
        return _discard_unreadable(project_id, ids, as_json)
    selection = _selection(ids, wanted, everything, DISCARDABLE)
    owner = _one_of(project_id, unreadable)
    return _work(owner, selection, repository.discard_letters, "discarded", dry_run, as_json)


def _one_of(project_id: UUID | None, unreadable: bool) -> UUID:
    if project_id is None or unreadable:
        raise click.UsageError("give either --project or --unreadable")
    return project_id


def _selection(
    ids: tuple[UUID, ...], wanted: dict[str, Any], everything: bool, statuses: tuple[Status, ...]
) -> Selection:
    status = wanted.pop("status", None) or statuses[0]
    filtered = any(value is not None for value in wanted.values())
    if (bool(ids) + filtered + everything) != 1:
        raise click.UsageError("give ids, or a filter (--type, --handler, --code, --from, --to), or --all")
    return Selection(statuses, ids or None, LetterFilter(status=status, **wanted))


def _work(project_id: UUID, selection: Selection, change: Change, done: str, dry_run: bool, as_json: bool) -> None:
    """Count, or change piece by piece under a bar, and say how many."""
    if dry_run:
        counted = run_with_database(lambda database: count(database, project_id, selection))
        show_json({"count": counted}) if as_json else click.echo(f"{counted:,} would be {done}")
        return
    changed = run_with_database(lambda database: _work_under_bar(database, project_id, selection, change, done))
    show_json({done: changed}) if as_json else click.echo(f"{changed:,} {done}")


async def _work_under_bar(database: Database, project_id: UUID, selection: Selection, change: Change, done: str) -> int:
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.completed:,.0f} " + done))
    total = await count(database, project_id, selection)
    changed, cursor, more = 0, selection.cursor, True
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        while more:
            part, cursor = await work_through(database, project_id, selection.after(cursor), change, most_pieces=1)
            changed += part
            more = cursor is not None
            bar.update(task, completed=changed)
    return changed


def _shown(value: object) -> str | None:
    if value is None:
        return None
    return readable(msgspec.Raw(msgspec.json.encode(value)) if isinstance(value, dict) else value)


def _row(letter: StoredLetter) -> tuple[object, ...]:
    error = " ".join(part for part in (letter.code, letter.field, letter.message) if part)
    texts = (letter.event_type, letter.handler, letter.status)
    shown = (readable(text or "-") for text in texts)
    return str(letter.id), *shown, letter.attempts, letter.last_failed_at, readable(error)


# -- messages that nobody could read -----------------------------------------------------------------------------


def _list_unreadable(project_id: UUID | None, limit: int, as_json: bool) -> None:
    _no_project(project_id)

    async def work(database: Database) -> list[UnreadableMessage]:
        async with database.across_projects() as connection:
            return await unreadable_messages.list_unreadable_across_projects(connection, limit)

    found = run_with_database(work)
    if as_json:
        return show_json({"items": [_unreadable_as_json(one) for one in found]})
    columns = ("id", "topic", "partition", "offset", "status", "failed", "error")
    return show_table(
        columns,
        [
            (one.id, one.topic, one.partition, one.offset, one.status, one.first_failed_at, readable(one.message))
            for one in found
        ],
    )


def _get_unreadable(project_id: UUID | None, letter_id: UUID) -> UnreadableMessage:
    _no_project(project_id)

    async def work(database: Database) -> UnreadableMessage:
        async with database.across_projects() as connection:
            return await unreadable_messages.get_unreadable_across_projects(connection, letter_id)

    return run_with_database(work)


def _discard_unreadable(project_id: UUID | None, ids: tuple[UUID, ...], as_json: bool) -> None:
    _no_project(project_id)
    if not ids:
        raise click.UsageError("give the ids of the unreadable messages")

    async def work(database: Database) -> int:
        async with database.across_projects() as connection:
            return await unreadable_messages.discard_unreadable_across_projects(connection, ids)

    discarded = run_with_database(work)
    show_json({"discarded": discarded}) if as_json else click.echo(f"{discarded:,} discarded")


def _no_project(project_id: UUID | None) -> None:
    if project_id is not None:
        raise click.UsageError("give either --project or --unreadable")


def _unreadable_as_json(message: UnreadableMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "status": message.status,
        "origin": {"topic": message.topic, "partition": message.partition, "offset": message.offset},
        "error": message.message,
        "failedAt": message.first_failed_at,
        "messageBase64": None if message.raw is None else base64.b64encode(message.raw).decode(),
    }
