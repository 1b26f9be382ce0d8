"""`boost send --file`: batches, what is said of each line, what is sent again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boost_streams.cli import send as send_module
from boost_streams.cli.batches import MOST_BYTES, Batches
from boost_streams.cli.sending import Line, read_lines
from tests.support.fake_boost import Answer, FakeBoost, line, run, running_fake_boost, write


@pytest.fixture
def boost() -> Iterator[FakeBoost]:
    with running_fake_boost() as server:
        yield server


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
