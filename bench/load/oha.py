"""`oha`: so many requests a second, whether answers come or not; latency counts from when a request was due.

A stall of the server is then seen by every request that was due while it lasted (no coordinated omission).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.children import Child
from bench.errors import BenchError

_GRACE_SECONDS = 30.0
_INSTALL = "oha is not installed: `make bench-tools`, or cargo install oha, brew install oha (macOS)"
#: Of the requests that were due, so many may be missing at the end: those that were under way.
_LEAST_SHARE = 0.98


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
    """One run of oha under way; `result` waits for it."""

    def __init__(
        self, url: str, bodies: Path, keys: Sequence[str], *, rate: float, connections: int, seconds: float
    ) -> None:
        self._seconds, self._due = seconds, rate * seconds
        argv: list[object] = [oha_program(), "--no-tui", "--output-format", "json", "-m", "POST"]
        argv += ["-q", max(1, round(rate)), "--latency-correction", "-c", connections, "-z", f"{seconds:g}s"]
        argv += ["-w", "-T", "application/json", "-Z", bodies]
        # One key for each run: oha sends the same headers with every request.
        argv += ["-H", f"x-api-key: {keys[0]}", f"{url}/events"]
        self._child = Child("oha", argv)

    def result(self) -> OhaAnswer:
        """Wait for the end and return what was measured.

        Raises:
            BenchError: A request was refused or got no answer, or the rate was not reached: no latency is worth much
                then.
        """
        answer = read_answer(self._child.output(self._seconds + _GRACE_SECONDS))
        if answer.requests < self._due * _LEAST_SHARE:
            raise BenchError(f"of {self._due:,.0f} requests that were due {answer.requests:,} were answered: too fast")
        return answer


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
