"""`boost send`: what goes over the wire, what is tried again, what is reported."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from boost_streams.cli import send as send_module
from boost_streams.cli.batches import MOST_BYTES, Batches, send_lines
from boost_streams.cli.send import send
from boost_streams.cli.sending import GiveUp, Line, Pace, Sender, read_lines, retry_after

KEY = "bst_test_not-a-key"
NOW = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)
Answer = tuple[int, dict[str, str], dict[str, Any]]
#: What the fake takes in one request, fewer than `--batch-size` would send.
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
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeBoost

    def do_POST(self) -> None:
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
        pass


def _batch(answers: list[Answer]) -> Answer:
    if len(answers) > MOST_IN_A_BATCH:
        return 413, {}, {"code": "too_large", "message": "too many"}
    results = [{"index": index, "field": None} | reply for index, (_, _, reply) in enumerate(answers)]
    accepted = sum("id" in result for result in results)
    counts = {"accepted": accepted, "rejected": len(results) - accepted}
    return (202 if accepted else 422), {}, {**counts, "results": results}


@pytest.fixture
def boost() -> Iterator[FakeBoost]:
    server = FakeBoost()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(boost: FakeBoost, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(send, [*arguments, "--url", boost.url], env={"BOOST_API_KEY": KEY}, **options)


def write(folder: Path, *lines: str) -> str:
    path = folder / "events.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def line(number: int) -> str:
    return json.dumps({"eventType": "click", "payload": {"n": number}})


# -- one event ---------------------------------------------------------------------------------------------------


def test_one_event_is_sent_as_http_takes_it(boost: FakeBoost) -> None:
    options = ("--user-id", "u-1", "--session-id", "s", "--timestamp", "2025-01-01T00:00:00Z")
    result = run(boost, "page_view", "--payload", '{"url": "/x", "n": 1.10}', *options)
    assert (result.exit_code, result.output) == (0, "id-1 pending\n")
    [event] = boost.events
    assert event.pop("messageId")
    assert event == {
        "eventType": "page_view",
        "payload": {"url": "/x", "n": 1.1},
        "userId": "u-1",
        "sessionId": "s",
        "timestamp": "2025-01-01T00:00:00Z",
    }
    assert b"1.10" in boost.bodies[0]
    assert boost.headers[0]["x-api-key"] == KEY
    assert boost.headers[0]["content-type"] == "application/json"


def test_one_event_sent_twice_is_two_events_unless_the_message_id_says_otherwise(boost: FakeBoost) -> None:
    for arguments in ([], [], ["--message-id", "m"], ["--message-id", "m"]):
        assert run(boost, "click", *arguments).exit_code == 0
    ids = [event["messageId"] for event in boost.events]
    assert len({*ids[:2]}) == 2
    assert ids[2:] == ["m", "m"]


def test_refused_event_is_an_error(boost: FakeBoost) -> None:
    boost.script = lambda event, tries: (422, {}, {"code": "invalid", "message": "payload.url: is required"})
    result = run(boost, "page_view")
    assert (result.exit_code, len(boost.bodies)) == (1, 1)
    assert "invalid: payload.url: is required" in result.output


@pytest.mark.parametrize(
    "arguments",
    [[], ["click", "--file", "-"], ["click", "--payload", "[1]"], ["click", "--payload", "{"], ["click", "--url", "x"]],
)
def test_wrong_use_is_said(boost: FakeBoost, arguments: list[str]) -> None:
    result = CliRunner().invoke(send, ["--url", boost.url, *arguments], env={"BOOST_API_KEY": KEY})
    assert result.exit_code == 2
    assert boost.bodies == []


def test_key_is_asked_for() -> None:
    result = CliRunner().invoke(send, ["click"], env={"BOOST_API_KEY": ""})
    assert result.exit_code == 2
    assert "BOOST_API_KEY" in result.output


# -- a file ------------------------------------------------------------------------------------------------------


def test_every_line_of_a_file_is_sent(boost: FakeBoost, tmp_path: Path) -> None:
    result = run(boost, "--file", write(tmp_path, *(line(n) for n in range(100)), "", "  "), "--batch-size", "30")
    assert result.exit_code == 0, result.output
    assert len(boost.requests) == 4
    assert {headers["content-type"] for headers in boost.headers} == {"application/x-ndjson"}
    assert not any("content-encoding" in headers for headers in boost.headers)
    assert sorted(event["payload"]["n"] for event in boost.events) == list(range(100))
    assert result.output.endswith("100 accepted, 0 duplicate, 0 failed\n")


def test_standard_input_is_a_file(boost: FakeBoost) -> None:
    assert run(boost, "--file", "-", input=line(1)).exit_code == 0
    assert len(boost.bodies) == 1


def test_no_more_than_the_concurrency_is_under_way(boost: FakeBoost, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=5)

    def script(event: dict[str, Any], tries: int) -> Answer | None:
        with boost.lock:
            boost.under_way += 1
            boost.most_under_way = max(boost.most_under_way, boost.under_way)
        together.wait()
        with boost.lock:
            boost.under_way -= 1
        return None

    boost.script = script
    assert (
        run(
            boost, "--file", write(tmp_path, *map(line, range(12))), "--concurrency", "3", "--batch-size", "1"
        ).exit_code
        == 0
    )
    assert boost.most_under_way == 3


def test_errors_name_their_line_and_stop_nothing(boost: FakeBoost, tmp_path: Path) -> None:
    def script(event: dict[str, Any], tries: int) -> Answer | None:
        refused: Answer = (422, {}, {"code": "invalid", "message": "payload: is [required]"})
        return refused if "payload" not in event else None

    boost.script = script
    path = write(tmp_path, line(1), "{", "", "[1]", '{"eventType": "click"}', line(2))
    result = run(boost, "--file", path)
    assert result.exit_code == 1
    assert len(boost.bodies) == 3
    assert "line 2: not JSON" in result.output
    assert "line 4: not a JSON object" in result.output
    assert "line 5: invalid: payload: is [required]" in result.output
    assert "2 accepted, 0 duplicate, 3 failed" in result.output


def test_file_sent_again_carries_the_same_message_ids(boost: FakeBoost, tmp_path: Path) -> None:
    own = '{"eventType": "click", "payload": {}, "messageId": "own"}'
    null = '{"eventType": "click", "payload": {}, "messageId": null}'
    path = write(tmp_path, line(1), line(1), line(2), own, null)
    for _ in range(2):
        assert run(boost, "--file", path).exit_code == 0
    first, second = ({event["messageId"] for event in sent} for sent in (boost.events[:5], boost.events[5:]))
    assert first == second
    assert len(first) == 5
    assert "own" in first


def test_message_ids_do_not_hang_on_the_lines_around(boost: FakeBoost) -> None:
    def ids(*lines: str) -> list[str]:
        return [json.loads(one.body)["messageId"] for one in read_lines([one.encode() + b"\r\n" for one in lines])]

    assert ids(line(1), line(2), line(1))[1:] == [*ids(line(2)), ids(line(1), line(1))[1]]


def test_numbers_of_a_line_stay_as_they_are() -> None:
    [one] = read_lines([b'\xef\xbb\xbf{"payload":{"n":12345678901234567890.10,"e":1E2}}'])
    assert b'{"n":12345678901234567890.10,"e":1E2}' in one.body
    [bad] = read_lines([b'{"x": "\xff"}'])
    assert bad.error is not None


def test_duplicates_are_counted(boost: FakeBoost, tmp_path: Path) -> None:
    boost.script = lambda event, tries: (202, {}, {"id": "x", "status": "pending", "duplicate": True})
    assert "0 accepted, 1 duplicate, 0 failed" in run(boost, "--file", write(tmp_path, line(1))).output


def test_a_batch_that_is_too_large_for_the_server_is_halved(boost: FakeBoost, tmp_path: Path) -> None:
    result = run(boost, "--file", write(tmp_path, *map(line, range(900))), "--batch-size", "700")
    assert result.exit_code == 0, result.output
    assert "900 accepted, 0 duplicate, 0 failed" in result.output
    assert {event["payload"]["n"] for event in boost.events} == set(range(900))


def test_what_the_server_could_not_take_just_now_is_sent_again_alone(boost: FakeBoost, tmp_path: Path) -> None:
    def script(event: dict[str, Any], tries: int) -> Answer | None:
        later: Answer = (422, {}, {"code": "unavailable", "message": "try again"})
        return later if event["payload"]["n"] % 10 == 3 and tries < 2 else None

    boost.script = script
    result = run(boost, "--file", write(tmp_path, *map(line, range(50))))
    assert (result.exit_code, len(boost.requests)) == (0, 3), result.output
    assert "50 accepted, 0 duplicate, 0 failed" in result.output
    assert len(boost.bodies) == 50 + 5 + 5


def test_bodies_are_compressed_for_another_machine(
    boost: FakeBoost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_module, "is_this_machine", lambda host: False)
    assert run(boost, "--file", write(tmp_path, *map(line, range(200)))).exit_code == 0
    assert boost.headers[0]["content-encoding"] == "gzip"
    assert len(boost.requests[0]) < sum(map(len, boost.bodies)) / 2
    assert len(boost.bodies) == 200
    assert run(boost, "--file", "-", input=line(1)).exit_code == 0
    assert "content-encoding" not in boost.headers[-1]


def test_batches_are_bounded_in_bytes_and_in_events() -> None:
    lines = [Line(number, 10, body=b"x" * size) for number, size in enumerate([10] * 7 + [MOST_BYTES + 1, 10, 10])]
    lines.insert(2, Line(99, 10, error="not JSON"))
    sizes = [[one.number for one in batch] for batch in Batches(3).of(lines)]
    assert sizes == [[99], [0, 1, 2], [3, 4, 5], [6], [7], [8, 9]]


# -- trying again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 429, 502, 503, 504])
def test_what_may_succeed_later_is_sent_again_as_it_was(boost: FakeBoost, status: int) -> None:
    boost.script = lambda event, tries: (status, {"Retry-After": "0"}, {}) if tries < 2 else None
    result = run(boost, "click")
    assert (result.exit_code, result.output) == (0, "id-3 pending\n")
    assert len(set(boost.bodies)) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 301])
def test_what_cannot_succeed_is_not_sent_again(boost: FakeBoost, status: int) -> None:
    boost.script = lambda event, tries: (status, {"Location": "/elsewhere"}, {"code": "no", "message": "never"})
    assert run(boost, "click").exit_code == 1
    assert len(boost.bodies) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_refused_key_stops_the_file(boost: FakeBoost, tmp_path: Path, status: int) -> None:
    boost.script = lambda event, tries: (status, {}, {"code": "unauthorized", "message": "unknown key"})
    result = run(boost, "--file", write(tmp_path, *map(line, range(50))), "--concurrency", "2", "--batch-size", "5")
    assert result.exit_code == 1
    assert len(boost.requests) <= 4
    assert "stopped: unauthorized: unknown key" in result.output


def test_server_that_stays_away_stops_the_file(tmp_path: Path) -> None:
    gone = FakeBoost()
    gone.server_close()
    result = run(gone, "--file", write(tmp_path, *map(line, range(50))), "--give-up-after", "0.3")
    assert result.exit_code == 1
    assert "does not answer" in result.output
    assert "run it again later" in result.output


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def __call__(self) -> float:
        return sum(self.slept)


async def slept_before_giving_up(boost: FakeBoost, give_up_after: float) -> list[float]:
    clock = Clock()
    pace = Pace(give_up_after, sleep=clock.sleep, clock=clock, chance=lambda: 0.0, now=lambda: NOW)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(GiveUp):
            await Sender(session, boost.url, KEY, pace).send(b"{}")
    return clock.slept


async def test_back_off_doubles_up_to_the_longest(boost: FakeBoost) -> None:
    boost.script = lambda event, tries: (503, {}, {})
    assert await slept_before_giving_up(boost, 33) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_events_that_stay_unavailable_are_given_up(boost: FakeBoost) -> None:
    boost.script = lambda event, tries: (422, {}, {"code": "unavailable", "message": "PostgreSQL is away"})
    clock = Clock()
    pace = Pace(3, sleep=clock.sleep, clock=clock, chance=lambda: 0.0, now=lambda: NOW)
    lines = read_lines([line(n).encode() for n in range(3)])
    async with aiohttp.ClientSession() as session:
        with pytest.raises(GiveUp, match="PostgreSQL is away"):
            [answer async for answer in send_lines(Sender(session, boost.url, KEY, pace), lines, Batches(10), 2)]
    assert clock.slept == [0.2, 0.4, 0.8, 1.6]


async def test_retry_after_is_waited_for(boost: FakeBoost) -> None:
    boost.script = lambda event, tries: (503, {"Retry-After": "7"}, {})
    assert await slept_before_giving_up(boost, 22) == [7.0, 7.0, 7.0]
    boost.script = lambda event, tries: (503, {"Retry-After": "7", "retry-after-ms": "1500"}, {})
    assert await slept_before_giving_up(boost, 4) == [1.5, 1.5]
    boost.script = lambda event, tries: (503, {"Retry-After": "3600"}, {})
    assert await slept_before_giving_up(boost, 120) == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("Sat, 01 Mar 2025 12:00:30 GMT", 30.0),
        ("Sat, 01 Mar 2025 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("١", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}, NOW) == seconds
