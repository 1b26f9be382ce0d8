"""`boost replay` against a real database, with the handlers that there are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner, Result

from boost_streams.cli.main import cli
from db.pool import Database
from tests.support.replays import counters, settle_live, store_events

Run = Callable[..., Awaitable[Result]]


def environment_of(database_url: str) -> dict[str, str]:
    return {"NODE_ENV": "test", "DATABASE_URL": database_url, "REDIS_URL": "", "COLUMNS": "200"}


@pytest.fixture
def run(database_url: str, restored_logging: None) -> Run:
    async def invoke(*arguments: object, **more: str) -> Result:
        given = ["replay", *(str(one) for one in arguments)]
        environment = environment_of(database_url) | more
        # A thread of its own: a command runs an event loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, cli, given, env=environment)

    return invoke


async def payments(database: Database, project_id: Any, count: int = 3) -> None:
    """Store payments that were settled before there was a handler for them."""
    sold = [{"amount": "1.50", "currency": "EUR"}] * count
    await settle_live(database, await store_events(database, project_id, *sold, types="payment_completed"), None)


async def test_a_replay_from_the_command_line(run: Run, database: Database, project: Any) -> None:
    await payments(database, project.id)
    counted = await run("--handler", "payment", "--dry-run", "--json")
    assert json.loads(counted.stdout) == {"count": 3}
    assert {key[1] for key in await counters(database)} == {"event_types"}
    done = await run("--handler", "payment", "--rate", 0, "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["id"], shown["state"], shown["eventsCounted"], shown["version"]) == (1, "complete", 3, 1)
    assert [(key[1], value) for key, value in (await counters(database)).items()] == [("revenue", (3, Decimal("4.50")))]


async def test_log_lines_are_not_among_the_output_unless_asked_for(run: Run, database: Database, project: Any) -> None:
    await payments(database, project.id)
    done = await run("--handler", "payment", LOG_LEVEL="")
    assert done.exit_code == 0, done.output
    assert "action" not in done.output
    await run("list")
    assert "replay_begin" in (await run("--handler", "tracking", LOG_LEVEL="info")).stderr


async def test_replays_are_listed_and_shown(run: Run, database: Database, project: Any) -> None:
    await payments(database, project.id)
    assert "3 events counted" in (await run("--event-type", "payment_completed", "--from", "2026-01-01")).stdout
    listed = await run("list")
    assert "payment_completed" in listed.stdout
    assert "2026-01-01" in listed.stdout
    items = json.loads((await run("list", "--json")).stdout)["items"]
    assert items == [json.loads((await run("status", 1, "--json")).stdout)]
    assert (items[0]["from"], items[0]["to"], items[0]["eventTypes"]) == ("2026-01-01", None, ["payment_completed"])
    again = await run("resume", 1)
    assert again.exit_code == 1
    assert "replay 1 is complete" in again.stderr
    assert "there is no replay 7" in (await run("status", 7)).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --handler or --event-type"),
        (("--handler", "nobody"), "no handler 'nobody'"),
        (("--handler", "payment", "--from", "2026-02-01", "--to", "2026-02-01"), "--from must lie before --to"),
        (("--handler", "payment", "--from", "yesterday"), "does not match the format"),
    ],
)
async def test_what_is_refused(run: Run, arguments: tuple[str, ...], said: str) -> None:
    refused = await run(*arguments)
    assert refused.exit_code in (1, 2)
    assert said in refused.stderr


async def test_killed_and_resumed(run: Run, database: Database, database_url: str, project: Any) -> None:
    """The process is gone without a word, in the midst of its pieces; the next one goes on at once."""
    for _ in range(4):
        await payments(database, project.id, 500)
    command = [
        sys.executable,
        "-c",
        "from boost_streams.cli.main import cli; cli()",
        "replay",
        "--handler",
        "payment",
        "--rate",
        "500",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, **environment_of(database_url)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30), database.across_projects() as connection:
            while not await connection.fetchval("SELECT events_counted FROM replays"):
                assert process.poll() is None, process.communicate()
                await asyncio.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert {key[1] for key in await counters(database)} == {"event_types"}
    done = await run("resume", 1, "--rate", 0, "--json")
    assert json.loads(done.stdout)["eventsCounted"] == 2000
    assert list((await counters(database)).values()) == [(2000, Decimal(3000))]


async def test_cancelled_from_the_command_line(run: Run, database: Database, project: Any) -> None:
    await payments(database, project.id)
    async with database.across_projects() as connection:
        await connection.execute(
            "INSERT INTO workers (id, host, url, roles, handlers) "
            "VALUES (gen_random_uuid(), 'h', 'http://h', '{agents}', '{\"payment\": 1}')"
        )
    before = await counters(database)
    refused = await run("--handler", "user")
    assert "deploy first" in refused.stderr
    async with database.across_projects() as connection:
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
        await connection.execute(
            "WITH next AS (UPDATE cutovers SET newest = newest + 1 RETURNING newest) INSERT INTO replays "
            "(id, handler, version, event_types, all_others, since, until, rate) "
            "SELECT newest, 'payment', 1, '{payment_completed}', false, '2000-01-01Z', '2101-01-01Z', 0 FROM next"
        )
    assert (await run("cancel", 1)).stdout == "replay 1 is cancelled\n"
    assert "cancelled" in (await run("list")).stdout
    assert await counters(database) == before
