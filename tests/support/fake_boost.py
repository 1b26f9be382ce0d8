"""A server that answers `POST /events` and `POST /events/batch` as a test says, for what sends events."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from boost_streams.cli.send import send

KEY = "bst_test_not-a-key"
Answer = tuple[int, dict[str, str], dict[str, Any]]
#: What it takes in one request, fewer than `boost send` would send.
MOST_IN_A_BATCH = 300


class FakeBoost(ThreadingHTTPServer):
    """Answers 202 with a running id for each event, unless `script` says otherwise for one.

    In a batch, what `script` says with 4xx is the event's own answer; any other status is that of the whole request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []  # one for each event
        self.requests: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.script: Callable[[dict[str, Any], int], Answer | None] = lambda event, tries: None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was sent, an event each, in the order of arrival."""
        return [json.loads(body) for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeBoost

    def do_POST(self) -> None:
        """Take one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        batch = self.path == "/events/batch"
        answers = [self._take(one) for one in (body.split(b"\n") if batch else [body])]
        whole = next((one for one in answers if one[0] not in (202, 400, 413, 422)), None)
        self._answer(*(whole or (_batch(answers) if batch else answers[0])))

    def _take(self, body: bytes) -> Answer:
        with self.server.lock:
            tries = self.server.bodies.count(body)
            self.server.bodies.append(body)
            number = len(self.server.bodies)
        answer = self.server.script(json.loads(body), tries)
        return answer or (202, {}, {"id": f"id-{number}", "status": "pending"})

    def _answer(self, status: int, headers: dict[str, str], reply: dict[str, Any]) -> None:
        if status == 0:
            self.close_connection = True
            return
        data = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _batch(answers: list[Answer]) -> Answer:
    if len(answers) > MOST_IN_A_BATCH:
        return 413, {}, {"code": "too_large", "message": "too many"}
    results = [{"index": index, "field": None} | reply for index, (_, _, reply) in enumerate(answers)]
    accepted = sum("id" in result for result in results)
    counts = {"accepted": accepted, "rejected": len(results) - accepted}
    return (202 if accepted else 422), {}, {**counts, "results": results}


@contextlib.contextmanager
def running_fake_boost() -> Iterator[FakeBoost]:
    """Run one."""
    server = FakeBoost()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(boost: FakeBoost, *arguments: str, **options: Any) -> Result:
    """Run `boost send` against it."""
    return CliRunner().invoke(send, [*arguments, "--url", boost.url], env={"BOOST_API_KEY": KEY}, **options)


def write(folder: Path, *lines: str) -> str:
    """Write a file of these lines; return its path."""
    path = folder / "events.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def line(number: int) -> str:
    """Write an event with a number as a line."""
    return json.dumps({"eventType": "click", "payload": {"n": number}})
