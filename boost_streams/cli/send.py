"""``boost send``: one event, or a file of them, to a Boost server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any, BinaryIO

import aiohttp
import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from boost_streams.cli.batches import Batches, send_lines
from boost_streams.cli.sending import REQUEST_SECONDS, GiveUp, Line, Pace, Sender, Sent, StayedAway, read_lines
from boost_streams.hosts import hosts_of_url, is_this_machine


@click.command()
@click.argument("event_type", required=False)
@click.option("--payload", default="{}", show_default=True, help="A JSON object.")
@click.option("--user-id", help="Who did it.")
@click.option("--anonymous-id", help="The visitor, where there is no user.")
@click.option("--session-id", help="The visitor's session.")
@click.option("--message-id", help="Makes sending it twice store it once.  [default: a new one]")
@click.option("--timestamp", help="When it happened, ISO 8601.  [default: now]")
@click.option("--file", "file", type=click.File("rb"), help="JSON lines, an event each; - reads standard input.")
@click.option(
    "--batch-size",
    default=500,
    show_default=True,
    type=click.IntRange(1, 2500),
    help="The most events in one request, with --file.",
)
@click.option(
    "--concurrency",
    default=4,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many requests at once, with --file.",
)
@click.option("--url", default="http://127.0.0.1:6066", show_default=True, envvar="BOOST_URL", help="The server.")
@click.option("--key", envvar="BOOST_API_KEY", help="An API key; better in BOOST_API_KEY, which no one else sees.")
@click.option(
    "--give-up-after",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds to go on trying while the server is away or busy.",
)
def send(
    event_type: str | None, file: BinaryIO | None, url: str, key: str | None, batch_size: int, concurrency: int,
    give_up_after: float, **fields: str | None,
) -> None:  # fmt: skip
    """Send one event of EVENT_TYPE, or every line of a file.

    \b
    boost send page_view --payload '{"url": "/pricing"}' --user-id u-1
    boost send --file events.jsonl

    A line is the JSON of an event as POST /events takes it; many go into one request. One without a messageId is
    given one made from the line, so that running the same file again stores nothing twice.
    """
    if (event_type is None) == (file is None):
        raise click.UsageError("give an EVENT_TYPE or a --file")
    if not key:
        raise click.UsageError("give an API key: set BOOST_API_KEY, or pass --key")
    message_id = fields["message_id"] = fields["message_id"] or str(uuid.uuid4())
    event = _event(event_type, fields) if file is None else b""
    with _OneEvent() if file is None else _File(file) as report:
        try:
            if file is None:
                asyncio.run(_send_one(url, key, event, Pace(give_up_after), report))
            else:
                batches = Batches(batch_size, compress=_is_far(url))
                asyncio.run(_send_file(url, key, file, batches, concurrency, Pace(give_up_after), report))
        except GiveUp as stopped:
            report.stopped = str(stopped)
            if isinstance(stopped, StayedAway):
                again = "nothing is stored twice" if file else f"with --message-id {message_id} it is stored once"
                report.stopped += f", {again}"
        except aiohttp.InvalidURL as error:
            raise click.UsageError(f"--url: {error} is no URL") from None
    sys.exit(report.finish())


def _event(event_type: str | None, fields: dict[str, str | None]) -> bytes:
    try:
        payload = msgspec.json.decode(str(fields.pop("payload")), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--payload: must be a JSON object ({error})") from None
    event: dict[str, Any] = {"eventType": event_type, "payload": payload}
    event |= {_camel(name): value for name, value in fields.items() if value is not None}
    return msgspec.json.encode(event)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _is_far(url: str) -> bool:
    """Tell whether the server is another machine: only then is there a network that compression spares."""
    try:
        return not all(is_this_machine(host) for host in hosts_of_url(url))
    except ValueError:
        return False


def _session(concurrency: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
    )


async def _send_one(url: str, key: str, event: bytes, pace: Pace, report: _Report) -> None:
    async with _session(1) as session:
        report.add(Line(1, 0, body=event), await Sender(session, url, key, pace).send(event))


async def _send_file(
    url: str, key: str, file: Iterable[bytes], batches: Batches, concurrency: int, pace: Pace, report: _Report
) -> None:
    async with _session(concurrency) as session:
        sender = Sender(session, url, key, pace)
        async with contextlib.aclosing(send_lines(sender, read_lines(file), batches, concurrency)) as answers:
            async for line, sent in answers:
                report.add(line, sent)


class _Report(contextlib.AbstractContextManager["_Report"]):
    """Counts what became of events, and says it at the end."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.stopped: str | None = None

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def add(self, line: Line, sent: Sent) -> None:
        """Take note of one event."""
        self.counts[sent.outcome] += 1

    def finish(self) -> int:
        """Say how it went and return the exit code."""
        if self.stopped is not None:
            click.echo(f"stopped: {self.stopped}", err=True)
        return 1 if self.stopped is not None or self.counts["failed"] else 0


class _OneEvent(_Report):
    def add(self, line: Line, sent: Sent) -> None:
        super().add(line, sent)
        if sent.error is not None:
            click.echo(sent.error, err=True)
        else:
            click.echo(f"{sent.id} {'was known' if sent.outcome == 'duplicate' else 'pending'}")


class _File(_Report):
    """Shows a bar by bytes read where the file's size is known; errors appear above it as they come."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        size = _size(file)
        columns: list[ProgressColumn] = [TextColumn("{task.fields[counts]}")]
        if size:
            columns = [BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(), *columns]
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=size or None, counts="")

    def __enter__(self) -> _File:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, line: Line, sent: Sent) -> None:
        super().add(line, sent)
        self._bar.update(self._task, advance=line.size, counts=self._summary())
        if sent.error is not None:
            said = f"line {line.number}: {sent.error}"
            self._bar.console.print(said, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> int:
        click.echo(self._summary(), err=True)
        return super().finish()

    def _summary(self) -> str:
        return ", ".join(f"{self.counts[name]} {name}" for name in ("accepted", "duplicate", "failed"))


def _size(file: BinaryIO) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except OSError:
        return 0
