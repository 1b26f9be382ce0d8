"""A batch is split into events whatever one of them holds; only what cannot be split is refused as a whole."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import time
import weakref
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from boost_streams.errors import BoostError, Invalid, MalformedJson, TooLarge
from db.new_events import NewEvent
from web.formats.boost_batch import BatchTerms, Read, read_batch, read_lines
from web.formats.client_clock import ClientClock
from web.formats.json_parts import array_parts, object_members

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
TERMS = BatchTerms(UUID(int=1), NOON, 65_536, 2_500)
GOOD = b'{"eventType":"good","payload":{}}'
#: Bytes that stand where an event should, with the code and the field of their refusal.
BAD: list[tuple[bytes, str, str | None]] = [
    (b"5", "invalid", "body"),
    (b"null", "invalid", "body"),
    (b'"text"', "invalid", "body"),
    (b"[]", "invalid", "body"),
    (b"{}", "invalid", "eventType"),
    (b'{"eventType":"x"}', "invalid", "payload"),
    (b'{"eventType":1,"payload":{}}', "invalid", "eventType"),
    (b'{"eventType":"  ","payload":{}}', "invalid", "eventType"),
    (b'{"eventType":"a\\u0000","payload":{}}', "invalid", "eventType"),
    (b'{"eventType":"x","payload":[]}', "invalid", "payload"),
    (b'{"eventType":"x","payload":{"a":"\\u0000"}}', "invalid", "payload"),
    (b'{"eventType":"x","payload":{"a":1e999}}', "invalid", "payload"),
    (b'{"eventType":"x","payload":{"a":"\xff"}}', "invalid", "payload"),
    (b'{"eventType":"x","payload":{},"more":1}', "invalid", "more"),
    (b'{"eventType":"x","payload":{},"timestamp":"soon"}', "invalid", "timestamp"),
    (b'{"eventType":"x","payload":{"a":"' + b"x" * 65_536 + b'"}}', "too_large", None),
    (b'{"eventType":"x","payload":{' + b" " * 65_536 + b"}}", "too_large", None),
    (b'{"eventType":"x\xff","payload":{}}', "malformed_json", None),
    (b'{"eventType":"x","payload":{"a":"\\ud800"}}', "malformed_json", None),
    (b'{"eventType":"x","payload":{"a":NaN}}', "malformed_json", None),
    (b'{"eventType":"x","payload":{"a":"\\q"}}', "malformed_json", None),
    (b'{"eventType":"x","payload":{"a":01}}', "malformed_json", None),
    (b'{"eventType":"x","payload":{,}}', "malformed_json", None),
    (b"nonsense", "malformed_json", None),
    (b'{"eventType":"x","payload":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}", "invalid", "payload"),
]
#: The shapes of a body, each with what reads it.
SHAPES: dict[str, tuple[Callable[[list[bytes]], bytes], Callable[[bytes, BatchTerms], list[Read]]]] = {
    "object": (lambda events: b' {"events": [' + b", ".join(events) + b'] , "sentAt": null}\n', read_batch),
    "array": (lambda events: b"[" + b"\n,".join(events) + b" ]", read_batch),
    "lines": (lambda events: b"\n".join(events) + b"\r\n", read_lines),
}


def outcome(read: Read) -> tuple[str, str | None]:
    if isinstance(read, NewEvent):
        return "taken", None
    return read.code, read.problems[0].field if read.problems else None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bad", "code", "field"), BAD)
def test_a_bad_event_costs_only_itself(shape: str, bad: bytes, code: str, field: str | None) -> None:
    wrap, read = SHAPES[shape]
    outcomes = [outcome(one) for one in read(wrap([GOOD, bad, GOOD]), TERMS)]
    assert outcomes == [("taken", None), (code, field), ("taken", None)]
    assert [outcome(one) for one in read(wrap([bad]), TERMS)] == [(code, field)]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_bad_events_together(shape: str) -> None:
    wrap, read = SHAPES[shape]
    outcomes = [outcome(one) for one in read(wrap([bad for bad, _, _ in BAD]), TERMS)]
    assert outcomes == [(code, field) for _, code, field in BAD]


@pytest.mark.parametrize("shape", SHAPES)
def test_payload_bytes_are_kept_as_they_came(shape: str) -> None:
    wrap, read = SHAPES[shape]
    payload = b'{"a":1.10, "b":"\\u00e9]},{[\\"", "c":"\xc3\xa9"}'
    for others in ([], [b"nonsense"]):
        (taken, *_) = read(wrap([b'{"payload": ' + payload + b' ,"eventType":"x"}', *others]), TERMS)
        assert isinstance(taken, NewEvent)
        assert taken.payload == payload
        assert (taken.project_id, taken.event_type) == (TERMS.project_id, "x")


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b"", MalformedJson, None),
        (b"nonsense", MalformedJson, None),
        (b"[", MalformedJson, None),
        (b"[" + GOOD, MalformedJson, None),
        (b"[" + GOOD + b",", MalformedJson, None),
        (b"[" + GOOD + b"}", MalformedJson, None),
        (b"[" + GOOD + b"] trailing", MalformedJson, None),
        (b'["text', MalformedJson, None),
        (b'{"events": [' + GOOD + b"]", MalformedJson, None),
        (b"{events: [" + GOOD + b"]}", MalformedJson, None),
        (b"[" * 100_000, MalformedJson, None),
        (b"null", Invalid, "body"),
        (b"5", Invalid, "body"),
        (b"[]", Invalid, "events"),
        (b" [ ] ", Invalid, "events"),
        (b"{}", Invalid, "events"),
        (b'{"events": []}', Invalid, "events"),
        (b'{"events": null}', Invalid, "events"),
        (b'{"events": {}}', Invalid, "events"),
        (b'{"sentAt": "2026-01-31T12:00:00Z"}', Invalid, "events"),
        (b'{"events": [' + GOOD + b'], "more": 1}', Invalid, "more"),
        (b'{"events": [' + GOOD + b'], "sentAt": 5}', Invalid, "sentAt"),
        (b'{"events": [' + GOOD + b'], "sentAt": "soon"}', Invalid, "sentAt"),
        (b'{"events": [nonsense], "sentAt": "soon"}', Invalid, "sentAt"),
        (GOOD, Invalid, "eventType"),
        (b"[" + b",".join([GOOD] * 2_501) + b"]", TooLarge, "events"),
        (b"[" + b",".join([b"1"] * 2_501) + b"]", TooLarge, "events"),
        (b"[" + b",".join([b"nonsense"] * 2_501) + b"]", TooLarge, "events"),
    ],
)
def test_what_cannot_be_split_is_refused_as_a_whole(body: bytes, error: type[BoostError], field: str | None) -> None:
    with pytest.raises(error) as caught:
        read_batch(body, TERMS)
    assert [problem.field for problem in caught.value.problems] == ([field] if field else [])


@pytest.mark.parametrize("body", [GOOD, GOOD + b"\n" + GOOD + b"\n", b'{"payload":{},"eventType":"x"}'])
def test_an_event_alone_or_lines_sent_as_json_are_told_what_to_send(body: bytes) -> None:
    with pytest.raises(Invalid, match=r"send an array of events.*application/x-ndjson"):
        read_batch(body, TERMS)
    with pytest.raises(Invalid, match="more: is not known"):
        read_batch(b'{"more":1}', TERMS)


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"", Invalid), (b" \r\n\n", Invalid), (b"\n".join([GOOD] * 2_501), TooLarge), (b"x\n" * 2_501, TooLarge)],
)
def test_lines_without_an_event_or_with_too_many(body: bytes, error: type[BoostError]) -> None:
    with pytest.raises(error) as caught:
        read_lines(body, TERMS)
    assert [problem.field for problem in caught.value.problems] == ["events"]


def test_as_many_events_as_are_allowed() -> None:
    assert len(read_batch(b"[" + b",".join([GOOD] * 2_500) + b"]", TERMS)) == 2_500
    assert len(read_lines(b"\n\n".join([GOOD] * 2_500), TERMS)) == 2_500


def test_blank_lines_do_not_count() -> None:
    outcomes = [outcome(read)[0] for read in read_lines(b"\n" + GOOD + b"\n \r\nnonsense\n\n" + GOOD, TERMS)]
    assert outcomes == ["taken", "malformed_json", "taken"]


@pytest.mark.parametrize(
    "body",
    [
        *(character * (4 << 20) for character in (b" ", b"\n", b'"', b"\\", b"[", b"{", b",")),
        b" \n" * (2 << 20),
        b'["' + b"\\" * (4 << 20),
        b"[1" + b",1" * (2 << 20),
        b"[[1" + b",1" * (2 << 20) + b"]]",
        b'{"events":[' + b"{}," * (1 << 20) + b"1]}",
        b'{"events":' + b" " * (4 << 20),
        b"{" + b'"events":1,' * 380_000,
    ],
)
def test_a_senseless_body_costs_little_time(body: bytes) -> None:
    for read in (read_batch, read_lines):
        began = time.process_time()
        with contextlib.suppress(BoostError):
            read(body, TERMS)
        assert time.process_time() - began < 2


def event_at(timestamp: str | None) -> dict[str, Any]:
    return {"eventType": "x", "payload": {}} | ({"timestamp": timestamp} if timestamp else {})


@pytest.mark.parametrize("broken", [False, True])
def test_sent_at_corrects_the_clients_clock(broken: bool) -> None:
    events = [json.dumps(event_at("2026-01-31T10:59:00+01:00")).encode(), json.dumps(event_at(None)).encode()]
    body = b'{"events": [' + b",".join([*events, *([b"nonsense"] if broken else [])])
    body += b'], "sentAt": "2026-01-31T10:00:00Z"}'
    corrected, untold = read_batch(body, TERMS)[:2]
    assert isinstance(corrected, NewEvent)
    assert isinstance(untold, NewEvent)
    assert (corrected.occurred_at, corrected.original_timestamp) == (NOON - dt.timedelta(minutes=1), None)
    assert (untold.occurred_at, untold.original_timestamp) == (None, None)


@pytest.mark.parametrize(
    ("sent_at", "timestamp", "ahead"),
    [
        (None, "2026-02-01T12:00:00Z", False),
        (None, "2026-02-01T12:00:00.000001Z", True),
        ("2026-01-31T12:00:00Z", "2026-02-02T00:00:00Z", True),
        ("2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z", False),
        ("2026-03-01T12:00:00Z", "2026-03-02T12:00:01Z", True),
        ("2025-01-01T00:00:00Z", "2026-01-31T12:00:00Z", True),
        ("2000-01-01T00:00:00Z", "2100-12-31T23:59:59Z", True),
        ("2100-12-31T23:59:59Z", "2000-01-01T00:00:00Z", False),
    ],
)
def test_what_lies_a_day_ahead_after_correction_is_not_believed(
    sent_at: str | None, timestamp: str, ahead: bool
) -> None:
    occurred_at, said = ClientClock.of_request(NOON, sent_at).occurred_at(timestamp)
    assert (occurred_at is None) is ahead
    assert said == (dt.datetime.fromisoformat(timestamp) if ahead else None)


@pytest.mark.parametrize("bad", [b'{"eventType":"a\\u0000","payload":{}}', b'{"eventType":1}'])
@pytest.mark.usefixtures("no_search_for_cycles")
def test_a_refusal_keeps_nothing_of_the_request(bad: bytes) -> None:
    class Terms(BatchTerms):
        pass

    terms = Terms(UUID(int=1), NOON, 65_536, 2_500)
    kept = weakref.ref(terms)
    _, refused = read_batch(b"[" + GOOD + b"," + bad + b"]", terms)
    del terms
    assert isinstance(refused, Invalid)
    assert kept() is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"[]", []),
        (b"[ \n]", []),
        (b"[1]", [b"1"]),
        (b"[1,]", [b"1", b""]),
        (b'["a,]\\"[", {"b": [1, 2]}, x]', [b'"a,]\\"["', b' {"b": [1, 2]}', b" x"]),
    ],
)
def test_an_array_is_split_at_its_own_commas(text: bytes, parts: list[bytes]) -> None:
    assert list(array_parts(text)) == parts


def test_an_object_is_split_into_names_and_values() -> None:
    text = b'{ "a" : 1 , "\\u0062":[x, y],"c,\\"d":"}" }'
    assert list(object_members(text)) == [("a", b"1"), ("b", b"[x, y]"), ('c,"d', b'"}"')]
