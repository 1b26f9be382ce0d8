"""`wrk`: as many requests as the answers allow, or so many a second; for throughput, not for latency.

It waits for an answer before the next request on a connection, so a stall of the server hides the requests that
would have come meanwhile: latencies are taken from `bench.load.oha` instead.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.children import Child
from bench.errors import BenchError

_SCRIPT = Path(__file__).with_name("events.lua")
#: How much longer than asked a run may take (seconds).
_GRACE_SECONDS = 20.0
_INSTALL = "wrk is not installed: `make bench-tools`, or apt install wrk (Debian, Ubuntu), brew install wrk (macOS)"


class WrkAnswer(msgspec.Struct, frozen=True):
    """What one run of wrk counted. `refused` are answers of 400 and above, `broken` what got no answer."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def rate(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Requests:
    """What is sent: events of a file in turn, to a path, with the keys in turn.

    `per_request` 0 sends the event itself, more sends batches; `message_ids` gives every event a fresh messageId.
    """

    bodies: Path
    keys: Sequence[str]
    path: str = "/events"
    per_request: int = 0
    message_ids: bool = False


def wrk_program() -> str:
    """Return where wrk is.

    Raises:
        BenchError: It is not installed; says how to.
    """
    program = shutil.which("wrk")
    if program is None:
        raise BenchError(_INSTALL)
    return program


class WrkRun:
    """One run of wrk under way; `result` waits for it."""

    def __init__(
        self, url: str, requests: Requests, *, connections: int, seconds: float, requests_per_second: float = 0
    ) -> None:
        self._seconds = max(1, round(seconds))
        prefix = f"{uuid.uuid4()}"[:24] if requests.message_ids else "-"
        argv = [wrk_program(), "-t1", f"-c{connections}", f"-d{self._seconds}s", "--timeout", "10s", "-s", str(_SCRIPT)]
        argv += [url, "--", str(requests.bodies), ",".join(requests.keys), requests.path, str(requests.per_request)]
        argv += [prefix, f"{requests_per_second:.3f}"]
        self._child = Child("wrk", argv)

    @property
    def pid(self) -> int:
        """The process id, for its CPU time."""
        return self._child.pid

    def result(self) -> WrkAnswer:
        """Wait for the end and return what was counted.

        Raises:
            BenchError: It failed, or a request was refused or got no answer: then the figure would be worth nothing.
        """
        output = self._child.output(self._seconds + _GRACE_SECONDS)
        answer = read_answer(output)
        if answer.refused or answer.broken:
            raise BenchError(
                f"of {answer.requests} requests {answer.refused} were refused and {answer.broken} got no answer: "
                "this is no measurement; look at the worker's log"
            )
        return answer


def read_answer(output: str) -> WrkAnswer:
    """Read the line of JSON that our script prints at the end of wrk's own output.

    Raises:
        BenchError: There is none.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                return msgspec.json.decode(line, type=WrkAnswer)
            except msgspec.DecodeError as error:
                raise BenchError(f"wrk printed what cannot be read: {line} ({error})") from error
    raise BenchError(f"wrk printed no result: {output.strip()}")


def saturate(url: str, requests: Requests, *, connections: int, seconds: float) -> WrkAnswer:
    """Send as fast as answers come, and return what was counted."""
    return WrkRun(url, requests, connections=connections, seconds=seconds).result()
