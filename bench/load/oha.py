"""`oha`: so many requests a second, whether answers come or not; latency counts from when a request was due.

A stall of the server is then seen by every request that was due while it lasted (no coordinated omission).

It takes each body at random from lines that it reads before it begins, so a messageId may come twice: with fifty lines
for each request that is due one in a hundred does, as with clients that send again what was not answered.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import msgspec

from bench.bodies import with_message_id
from bench.children import Child
from bench.errors import BenchError
from bench.load.wrk import Requests

_GRACE_SECONDS = 30.0
_INSTALL = "oha is not installed: `make bench-tools`, or cargo install oha, brew install oha (macOS)"
#: Of the requests that were due, so many may be missing at the end: those that were under way.
_LEAST_SHARE = 0.98
#: Lines with a messageId for each request that is due, and the most of them: they take 500 MB of memory.
_LINES_PER_REQUEST = 50
_MOST_LINES = 1_000_000
_LINES_AT_ONCE = 10_000
_LOOK_SECONDS = 0.05


class _Percentiles(msgspec.Struct):
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class _Summary(msgspec.Struct):
    requests_per_sec: float = msgspec.field(name="requestsPerSec")
    slowest: float | None = None
    total: float = 0.0


class _Output(msgspec.Struct):
    summary: _Summary
    percentiles: _Percentiles = msgspec.field(name="latencyPercentiles")
    statuses: dict[str, int] = msgspec.field(name="statusCodeDistribution", default_factory=dict)
    errors: dict[str, int] = msgspec.field(name="errorDistribution", default_factory=dict)


@dataclass(frozen=True, slots=True)
class OhaAnswer:
    """What one run of oha measured: answered requests and their latencies from when each was due (milliseconds)."""

    requests: int
    rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def oha_program() -> str:
    """Return where oha is.

    Raises:
        BenchError: It is not installed; says how to.
    """
    cargo = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "bin"
    program = shutil.which("oha") or shutil.which("oha", path=str(cargo))
    if program is None:
        raise BenchError(_INSTALL)
    return program


class OhaRun:
    """One run of oha under way; `result` waits for it.

    With `begin=False` it has read what it sends and waits for `begin`: reading takes half a second and more.
    """

    def __init__(
        self, url: str, requests: Requests, *, rate: float, connections: int, seconds: float, begin: bool = True
    ) -> None:
        self._seconds, self._due = seconds, rate * seconds
        self._fresh = _FreshLines(requests.bodies, round(self._due)) if requests.message_ids else None
        bodies = self._fresh.pipe if self._fresh else requests.bodies
        argv: list[object] = [oha_program(), "--no-tui", "--output-format", "json", "-m", "POST"]
        argv += ["-q", max(1, round(rate)), "--latency-correction", "-c", connections, "-z", f"{seconds:g}s"]
        argv += ["-w", "-T", "application/json", "-Z", bodies]
        # One key for each run: oha sends the same headers with every request.
        argv += ["-H", f"x-api-key: {requests.keys[0]}", f"{url}{requests.path}"]
        self._argv = argv
        self._child: Child | None = None
        if self._fresh:
            self._child = Child("oha", argv)
            self._fresh.wait_until_read(self._child)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Send the first request now."""
        if self._fresh:
            self._fresh.end()
        if self._child is None:
            self._child = Child("oha", self._argv)

    def result(self) -> OhaAnswer:
        """Wait for the end and return what was measured.

        Raises:
            BenchError: A request was refused or got no answer, or the rate was not reached: no latency is worth much
                then.
        """
        if self._child is None:
            raise BenchError("this run of oha has not begun")
        try:
            output = self._child.output(self._seconds + _GRACE_SECONDS)
        finally:
            if self._fresh:
                self._fresh.forget()
        answer = read_answer(output)
        if answer.requests < self._due * _LEAST_SHARE:
            raise BenchError(f"of {self._due:,.0f} requests that were due {answer.requests:,} were answered: too fast")
        return answer


class _FreshLines:
    """Events with messageIds that nobody sent before, through a pipe: half a gigabyte that no disk has to take."""

    def __init__(self, bodies: Path, due: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="boost-bench-")
        self.pipe = Path(self._folder.name) / "events.jsonl"
        os.mkfifo(self.pipe)
        count = min(_MOST_LINES, _LINES_PER_REQUEST * due)
        lines = fresh_lines(bodies.read_bytes().splitlines(), count)
        self._written, self._may_end = threading.Event(), threading.Event()
        self._writer = threading.Thread(target=self._write, args=(lines,), name="lines for oha", daemon=True)
        self._writer.start()

    def wait_until_read(self, reader: Child) -> None:
        """Wait until all lines are read, but not their end; or until the one who reads has ended."""
        while not self._written.wait(_LOOK_SECONDS) and reader.running:
            pass

    def end(self) -> None:
        """Let the reader see the end of the lines, and so begin what it does with them."""
        self._may_end.set()

    def forget(self) -> None:
        """Take the pipe away; its writer ends even if nobody ever read."""
        self.end()
        os.close(os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK))
        self._writer.join()
        self._folder.cleanup()

    def _write(self, lines: Iterator[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError), self.pipe.open("wb", buffering=0) as pipe:
            while some := list(itertools.islice(lines, _LINES_AT_ONCE)):
                _write_all(pipe, b"".join(some))
            self._written.set()
            self._may_end.wait()


def _write_all(pipe: FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[pipe.write(left) :]


def fresh_lines(bodies: list[bytes], count: int) -> Iterator[bytes]:
    """Yield so many of the events, in turn, each with a messageId of its own and a line's end."""
    prefix = f"{uuid.uuid4()}"[:24]
    for number, body in enumerate(itertools.islice(itertools.cycle(bodies), count)):
        yield with_message_id(body, f"{prefix}{number:012d}") + b"\n"


def read_answer(output: str) -> OhaAnswer:
    """Read the JSON that oha prints.

    Raises:
        BenchError: It cannot be read, or some requests failed.
    """
    try:
        read = msgspec.json.decode(output, type=_Output)
    except msgspec.DecodeError as error:
        raise BenchError(f"oha printed what cannot be read: {output[:500]} ({error})") from error
    taken = sum(count for status, count in read.statuses.items() if status.startswith("2"))
    refused = {status: count for status, count in read.statuses.items() if not status.startswith("2")}
    # Requests that are under way when the time is over are aborted: that is no failure.
    broken = {error: count for error, count in read.errors.items() if "deadline" not in error}
    if refused or broken:
        raise BenchError(f"requests failed: {refused or ''} {broken or ''}".strip())
    latencies = read.percentiles
    if not taken or latencies.p50 is None or latencies.p90 is None or latencies.p99 is None:
        raise BenchError("oha got no answer at all")
    slowest = read.summary.slowest or latencies.p99
    return OhaAnswer(
        taken,
        read.summary.requests_per_sec,
        latencies.p50 * 1e3,
        latencies.p90 * 1e3,
        latencies.p99 * 1e3,
        slowest * 1e3,
    )
