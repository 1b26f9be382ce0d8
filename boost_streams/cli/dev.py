"""``boost dev``: the whole of Boost on one machine, from an empty folder to a key that works."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import click
from rich.console import Console

from boost_streams.cli.dev_servers import SHARED_SETTINGS, env_file, no_env_file_outlives, write_env_file
from boost_streams.cli.dev_session import DevOptions, DevSession, Ready
from boost_streams.embedded.data_folder import default_data_folder, make_data_folder, sole_owner
from boost_streams.embedded.process import EmbeddedServerError
from boost_streams.errors import BoostError
from boost_streams.settings import load_settings

_EVENT = '{"eventType":"page_view","payload":{"url":"/hello"}}'


@click.command()
@click.option(
    "--port", default=6066, show_default=True, type=click.IntRange(1, 65535), help="Port of the first worker."
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data and logs are kept.  [default: .boost in this folder]",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Needs --kafka when more than 1.",
)
@click.option("--kafka", is_flag=True, help="Run a real Apache Kafka (Java 17+ and Maven) as the broker.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when ready, all else on stderr.")
def dev(port: int, data_dir: Path | None, workers: int, kafka: bool, as_json: bool) -> None:
    """Run Boost on this machine: PostgreSQL, Redis, a broker and workers, without Docker or root.

    DATABASE_URL, KAFKA_BROKER and REDIS_URL, where set, replace each part with a server of yours.
    Ctrl-C stops everything; the data stays for the next time.
    """
    load_settings({**os.environ, "NODE_ENV": "development"})  # what is wrong is said before anything starts
    broker = os.environ.get("KAFKA_BROKER", "").strip()
    if workers > 1 and not kafka and not broker:
        raise click.UsageError(
            "more than one worker needs a real Kafka: the broker inside boost dev cannot share its "
            "partitions among several workers. Add --kafka, or set KAFKA_BROKER to a broker of yours."
        )
    options = DevOptions(
        port=port,
        data_dir=(data_dir or _default_folder()).absolute(),
        workers=workers,
        kafka=kafka,
        database_url=os.environ.get("DATABASE_URL", "").strip(),
        kafka_broker=broker,
        redis_url=os.environ.get("REDIS_URL", "").strip(),
    )
    try:
        _run(options, as_json)
    except (EmbeddedServerError, BoostError) as error:
        raise click.ClickException(str(error)) from error


def _default_folder() -> Path:
    project = Path.cwd()
    if os.environ.get("DATABASE_URL", "").strip():
        return project / ".boost"
    folder = default_data_folder(project)
    if folder.parent != project:
        _say(f"PostgreSQL runs as another user, who may not enter {project}: keeping the data in {folder}")
    return folder


def _run(options: DevOptions, as_json: bool) -> None:
    make_data_folder(options.data_dir)
    folder = options.data_dir
    with sole_owner(folder), no_env_file_outlives(folder), contextlib.ExitStack() as stack:
        answer = sys.stdout
        if as_json:  # whatever else might print, a library say, must not get between
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))

        def announce(ready: Ready) -> None:
            write_env_file(folder, env_of_commands(ready, options))
            if as_json:
                print(as_one_line(ready), file=answer, flush=True)
            else:
                _show(ready, options)

        DevSession(options, _say).run(announce)


def as_one_line(ready: Ready) -> str:
    """Return the line that ``boost dev --json`` prints."""
    return json.dumps(
        {
            "url": ready.url,
            "apiKey": ready.api_key,
            "projectId": ready.project_id,
            "databaseUrl": ready.database_url,
            "kafkaBroker": ready.kafka_broker,
            "redisUrl": ready.redis_url,
            "workers": list(ready.workers),
        }
    )


def env_of_commands(ready: Ready, options: DevOptions) -> dict[str, str]:
    """Return the variables with which commands find what runs."""
    shared = {name: os.environ[name] for name in SHARED_SETTINGS if os.environ.get(name)}
    return shared | {
        "NODE_ENV": "development",
        "DATABASE_URL": ready.database_url,
        "KAFKA_BROKER": ready.kafka_broker,
        "REDIS_URL": ready.redis_url or "",
        "BOOST_EMBEDDED_BROKER": "true" if options.embedded_broker else "false",
        "BOOST_URL": ready.url,
        "BOOST_API_KEY": ready.api_key,
    }


def boost_line(data_dir: Path) -> str:
    """Return a command that shows counters, to be pasted into a shell of the same folder."""
    from db.bootstrap import DEMO_PROJECT  # by now the session has imported it, while servers started

    found = Path(sys.executable).with_name("boost")
    here = found.is_relative_to(Path.cwd()) and found.relative_to(Path.cwd())
    boost = "boost" if shutil.which("boost") else str(here or found)
    line = shlex.join([boost, "counters", "--project", DEMO_PROJECT])
    if data_dir in (Path.cwd() / ".boost", default_data_folder(Path.cwd())):
        return line
    return f"source {shlex.quote(str(env_file(data_dir)))} && {line}"


def curl_line(ready: Ready) -> str:
    """Return a command that sends one event, to be pasted into a shell."""
    words = ["curl", "-X", "POST", f"{ready.url}/events", "-H", f"x-api-key: {ready.api_key}"]
    words += ["-H", "content-type: application/json", "-d", _EVENT]
    return shlex.join(words)


def _show(ready: Ready, options: DevOptions) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold green]Boost is running[/] at [bold]{ready.url}[/]\n")
    console.print(f"  API key   [bold]{ready.api_key}[/]")
    console.print(f"  Project   demo, {ready.project_id}", markup=False)
    own = options.database_url and "yours (DATABASE_URL)"  # which may hold a password
    console.print(f"  Database  {own or ready.database_url}", markup=False)
    console.print(f"  Broker    {ready.kafka_broker}", markup=False)
    cache = options.redis_url and "yours (REDIS_URL)"
    console.print(f"  Redis     {cache or ready.redis_url or 'none'}", markup=False)
    console.print(f"  Logs      {options.data_dir / 'logs'}", markup=False)
    console.print("\nSend a first event:\n")
    console.print(f"  {curl_line(ready)}\n", markup=False)
    console.print("See what was counted, from another terminal in this folder:\n")
    console.print(f"  {boost_line(options.data_dir)}\n", markup=False)
    console.print("[dim]Ctrl-C stops everything; the data stays.[/]")


def _say(news: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"boost dev: {news}", markup=False)
