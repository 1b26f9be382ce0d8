"""`boost send`: what goes over the wire for one event, what is tried again, what is reported."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from boost_streams.cli.batches import Batches, send_lines
from boost_streams.cli.send import send
from boost_streams.cli.sending import GiveUp, Pace, Sender, read_lines, retry_after
from tests.support.fake_boost import KEY, FakeBoost, line, run, running_fake_boost, write

NOW = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def boost() -> Iterator[FakeBoost]:
    with running_fake_boost() as server:
        yield server


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
    assert "run it again later, nothing is stored twice" in result.output


def test_one_event_that_was_not_answered_is_sent_again_with_the_same_id(boost: FakeBoost) -> None:
    boost.script = lambda event, tries: (503, {}, {})
    for arguments in ((), ("--message-id", "m-1")):
        result = run(boost, "click", *arguments, "--give-up-after", "0.1")
        assert result.exit_code == 1
        sent = boost.events[-1]["messageId"]
        assert f"run it again later, with --message-id {sent} it is stored once" in result.output
        assert "nothing is stored twice" not in result.output


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
