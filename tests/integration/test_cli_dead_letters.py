"""`boost dead-letters` against a real database."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from boost_streams.cli.main import cli
from boost_streams.outcomes import failed
from db import dead_letters as repository
from db.burial import Origin, bury_message_across_projects, message_letter_id
from db.pool import Database
from tests.support.letters import bury, letters_of

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(database_url: str, restored_logging: None) -> Run:
    async def invoke(*arguments: object) -> Result:
        environment = {"NODE_ENV": "test", "DATABASE_URL": database_url, "REDIS_URL": "", "COLUMNS": "200"}
        arguments = ("dead-letters", *arguments)
        # A thread of its own: a command runs an event loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, cli, [str(one) for one in arguments], env=environment)

    return invoke


async def test_letters_are_listed_as_http_does(run: Run, database: Database, project: Any) -> None:
    ids = [one for _ in range(2) for one in await bury(database, project.id, "page_view")]
    await bury(database, project.id, "\x1b]0;owned\x07click", outcome=failed("odd", None, "no"))
    listed = await run("list", "--project", project.id, "--json", "--limit", 2, "--type", "page_view")
    page = json.loads(listed.stdout)
    assert [letter["id"] for letter in page["items"]] == [str(one) for one in reversed(ids)]
    assert page["items"][0]["history"] == []
    first = await run("list", "--project", project.id, "--limit", 2)
    assert "\x1b" not in first.stdout
    assert "owned" in first.stdout
    cursor = first.stderr.split("--cursor ")[1].strip()
    rest = await run("list", "--project", project.id, "--cursor", cursor)
    assert str(ids[0]) in rest.stdout
    assert str(ids[1]) not in rest.stdout
    assert "missing url is required" in rest.stdout
    none = await run("list", "--project", project.id, "--code", "odd", "--to", "2020-01-01", "--json")
    assert json.loads(none.stdout) == {"items": [], "nextCursor": None}


async def test_letter_is_shown(run: Run, database: Database, project: Any, other_project: Any) -> None:
    [event_id] = await bury(database, project.id, "page_view")
    shown = await run("show", event_id, "--project", project.id)
    assert shown.exit_code == 0, shown.output
    assert "is required" in shown.stdout
    assert '"offset": 42' in shown.stdout
    hidden = await run("show", event_id, "--project", other_project.id)
    assert (hidden.exit_code, "there is no dead letter" in hidden.stderr) == (1, True)


async def test_filter_is_replayed_in_pieces_under_a_bar(
    run: Run, database: Database, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bury(database, project.id, *["page_view"] * 12)
    [other] = await bury(database, project.id, "click")
    monkeypatch.setattr(repository.next_piece, "__kwdefaults__", {"cursor": None, "most": 5, "window": 7})
    counted = await run("replay", "--project", project.id, "--type", "page_view", "--dry-run")
    assert counted.stdout == "12 would be replayed\n"
    assert {letter.status for letter in await letters_of(database, project.id)} == {"open"}
    replayed = await run("replay", "--project", project.id, "--type", "page_view")
    assert (replayed.exit_code, replayed.stdout) == (0, "12 replayed\n")
    assert [letter.id for letter in await letters_of(database, project.id, status="open")] == [other]
    rest = await run("replay", "--project", project.id, "--all", "--json")
    assert json.loads(rest.stdout) == {"replayed": 1}


async def test_letters_are_discarded_and_replayed_by_id(
    run: Run, database: Database, project: Any, other_project: Any
) -> None:
    first, second = await bury(database, project.id, "page_view", "page_view")
    [theirs] = await bury(database, other_project.id, "page_view")
    discarded = await run("discard", first, theirs, "--project", project.id)
    assert (discarded.exit_code, discarded.stdout) == (0, "1 discarded\n")
    replayed = await run("replay", first, second, theirs, "--project", project.id)
    assert (replayed.exit_code, replayed.stdout) == (0, "2 replayed\n")
    assert [letter.status for letter in await letters_of(database, other_project.id)] == ["open"]


@pytest.mark.parametrize("command", ["replay", "discard"])
async def test_everything_has_to_be_asked_for(run: Run, project: Any, command: str) -> None:
    for arguments in ((), (uuid4(), "--all"), (uuid4(), "--code", "x"), ("--all", "--code", "x")):
        result = await run(command, "--project", project.id, *arguments)
        assert (result.exit_code, "give ids, or a filter" in result.stderr) == (2, True)


async def test_wrong_use_is_said(run: Run, project: Any) -> None:
    assert (await run("list")).exit_code == 2
    assert (await run("list", "--project", project.id, "--unreadable")).exit_code == 2
    assert (await run("discard", "--unreadable")).exit_code == 2
    wrong = await run("list", "--project", project.id, "--from", "yesterday")
    assert (wrong.exit_code, "ISO 8601" in wrong.stderr) == (2, True)


async def test_messages_that_nobody_could_read(run: Run, database: Database) -> None:
    origin, raw = Origin("raw-events", 1, 7), b"\xff\x00 nonsense"
    async with database.across_projects() as connection:
        for _ in range(2):  # it is delivered twice
            await bury_message_across_projects(connection, origin, raw, "not \x1b[31mJSON")
    letter_id = message_letter_id(origin, raw)
    listed = await run("list", "--unreadable")
    assert listed.stdout.count(str(letter_id)) == 1
    assert "\x1b" not in listed.stdout
    (item,) = json.loads((await run("list", "--unreadable", "--json")).stdout)["items"]
    assert (item["origin"], item["messageBase64"]) == ({"topic": "raw-events", "partition": 1, "offset": 7}, None)
    shown = json.loads((await run("show", letter_id, "--unreadable", "--json")).stdout)
    assert base64.b64decode(shown["messageBase64"]) == raw
    assert (await run("show", uuid4(), "--unreadable")).exit_code == 1
    assert (await run("discard", letter_id, "--unreadable")).stdout == "1 discarded\n"
    assert (await run("discard", letter_id, "--unreadable")).stdout == "0 discarded\n"
