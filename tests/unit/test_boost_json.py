"""Bad input is refused with the field's name; good input keeps its payload's bytes."""

from __future__ import annotations

import datetime as dt
import json
from uuid import UUID

import pytest

from boost_streams.errors import Invalid, MalformedJson, TooLarge
from web.formats.boost_json import read_event
from web.formats.client_clock import ClientClock, read_timestamp

PROJECT = UUID(int=1)
CLOCK = ClientClock(dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC))


def read(body: bytes | dict) -> object:
    return read_event(body if isinstance(body, bytes) else json.dumps(body).encode(), PROJECT, CLOCK, 65_536)


def event(**changes: object) -> dict:
    return {"eventType": "page_view", "payload": {"url": "/"}, **changes}


def test_payload_bytes_are_kept_as_they_came() -> None:
    taken = read(b'{ "eventType":"x","payload": {"a":1.10, "b":"\\u00e9" } }')
    assert taken.payload == b'{"a":1.10, "b":"\\u00e9" }'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"eventType":"x","payload":{"a":NaN}}',
        b'{"eventType":"x","payload":{"a":Infinity}}',
        b'{"eventType":"x","payload":{}} trailing',
        b'{"eventType":"x","payload":{},}',
        b'{"eventType":1,"payload":{',
        b"\xff\xfe",
        b'{"eventType":"x","payload":{"a":"\\ud800"}}',
        b'{"eventType":"x","payload":{"\\udc00":1}}',
        b'{"eventType":"\\ud800","payload":{}}',
        b"[" * 60_000,
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises((MalformedJson, Invalid)) as caught:
        read(body)
    if not body.startswith(b"["):
        assert isinstance(caught.value, MalformedJson)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"payload": {}}, "eventType"),
        ({"eventType": "x"}, "payload"),
        (event(eventType=""), "eventType"),
        (event(eventType="  \t"), "eventType"),
        (event(eventType=5), "eventType"),
        (event(eventType=None), "eventType"),
        (event(eventType="x" * 201), "eventType"),
        (event(eventType="a\x00b"), "eventType"),
        (event(payload=[]), "payload"),
        (event(payload="text"), "payload"),
        (event(payload=None), "payload"),
        (event(userId=""), "userId"),
        (event(userId=7), "userId"),
        (event(userId="u" * 257), "userId"),
        (event(anonymousId="a\x00"), "anonymousId"),
        (event(userId="\x00"), "userId"),
        (event(sessionId="a\x00b"), "sessionId"),
        (event(messageId="\x00b"), "messageId"),
        (event(sessionId="s" * 257), "sessionId"),
        (event(messageId=""), "messageId"),
        (event(timestamp="yesterday"), "timestamp"),
        (event(timestamp="1999-12-31T23:59:59Z"), "timestamp"),
        (event(timestamp="2101-01-01T00:00:00Z"), "timestamp"),
        (event(timestamp=1700000000), "timestamp"),
        (event(surprise=1), "surprise"),
        (event(payload={"a": {"b": "x\x00y"}}), "payload"),
        (event(payload={"a\x00": 1}), "payload"),
        (b'{"eventType":"x","payload":{"a":1e999}}', "payload"),
        (b'{"eventType":"x","payload":{"a":-1e400}}', "payload"),
        (b'{"eventType":"x","payload":{"a":1e-16000}}', "payload"),
        (b'{"eventType":"x","payload":{"a":0.' + b"0" * 400 + b"1}}", "payload"),
        (b'{"eventType":"x","payload":{"a":' + b"9" * 400 + b"}}", "payload"),
        (b'{"eventType":"x","payload":{"a":1e99999999999999999999}}', "payload"),
        (b'{"eventType":"x","payload":' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}", "payload"),
        (b'{"eventType":"x","payload":{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}}", "payload"),
        (b"[]", "body"),
        (b"1", "body"),
    ],
)
def test_a_refusal_names_the_field(body: bytes | dict, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(body)
    assert [problem.field for problem in caught.value.problems] == [field]
    assert field in caught.value.message


def test_depth_64_is_taken() -> None:
    read(b'{"eventType":"x","payload":' + b'{"a":' * 63 + b"{}" + b"}" * 63 + b"}")


def test_wide_payloads_are_taken() -> None:
    read(event(payload={"list": [{} for _ in range(1000)]}))


def test_an_escaped_backslash_is_no_nul() -> None:
    read(b'{"eventType":"x","payload":{"a":"\\\\u0000"}}')


def test_a_surrogate_pair_is_a_character() -> None:
    read(b'{"eventType":"x","payload":{"a":"\\ud83d\\ude00"}}')


def test_numbers_that_jsonb_keeps_are_taken() -> None:
    read(b'{"eventType":"x","payload":{"a":123456789012345678901234567890.123456789, "b":1e308}}')


def test_too_large() -> None:
    with pytest.raises(TooLarge):
        read(event(payload={"a": "x" * 70_000}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T12:00:00Z", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        ("2026-01-31T12:00:00", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        ("2026-01-31T12:00:00.123456+02:00", dt.datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=dt.UTC)),
        ("2026-01-31", dt.datetime(2026, 1, 31, tzinfo=dt.UTC)),
        ("20260131T120000Z", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        ("2000-01-01T00:00:00Z", dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
        ("2100-12-31T23:59:59Z", dt.datetime(2100, 12, 31, 23, 59, 59, tzinfo=dt.UTC)),
    ],
)
def test_timestamps(text: str, expected: dt.datetime) -> None:
    assert read_timestamp(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "2026-13-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-W99"]
)
def test_bad_timestamps(text: str) -> None:
    with pytest.raises(Invalid):
        read_timestamp(text)


@pytest.mark.parametrize(
    "number",
    ["0e999", "1E+0309", "1e-309", "-1.5e309", "1" * 310, "0." + "0" * 310 + "1", "1" * 205 + "e205", "1e1000"],
)
def test_numbers_beyond_a_double_are_refused(number: str) -> None:
    with pytest.raises(Invalid):
        read(b'{"eventType":"x","payload":{"a":[' + number.encode() + b"]}}")


@pytest.mark.parametrize(
    "value",
    [
        "1e308",
        "-1E-308",
        "1" * 308,
        "0." + "1" * 300,
        '"1e999"',
        '"0197c5e1-7e300-4e999"',
        '"' + "9" * 500 + '"',
        "1e+308",
        "0.0",
    ],
)
def test_what_only_looks_like_a_far_number_is_taken(value: str) -> None:
    payload = b'{"a":' + value.encode() + b"}"
    assert read(b'{"eventType":"x","payload":' + payload + b"}").payload == payload


def test_a_timestamp_far_ahead_is_kept_as_the_client_said_it() -> None:
    taken = read(event(timestamp="2026-02-01T12:00:01Z"))
    assert (taken.occurred_at, taken.original_timestamp) == (None, dt.datetime(2026, 2, 1, 12, 0, 1, tzinfo=dt.UTC))
    taken = read(event(timestamp="2026-02-01T12:00:00Z"))
    assert (taken.occurred_at, taken.original_timestamp) == (dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC), None)


def test_an_exponent_that_is_too_large_is_told_in_words() -> None:
    with pytest.raises(Invalid) as caught:
        read(b'{"eventType": "x", "payload": {"x": 1e99999999999999999999}}')
    assert caught.value.message == "payload: holds a number whose exponent is too large"
