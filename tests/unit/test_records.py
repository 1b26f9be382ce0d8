"""Records on topics: what is written is read again, payloads pass untouched, newer releases are noticed."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from boost_streams.events import Event
from boost_streams.records import (
    SCHEMA_VERSION,
    DeadLetter,
    EventKey,
    EventRecord,
    HandlerBatch,
    Malformed,
    Newer,
    RawEventBatch,
    RecordCodec,
    SettledCount,
    SettledDeltas,
    UnknownSchemaVersion,
    UnreadBatch,
    UnreadHandlerBatch,
)
from boost_streams.schema import RecordSchema
from tests.support.records import as_bytes

BATCH = UUID("019690a0-0000-7000-8000-000000000000")
PROJECT = UUID("019690a0-0000-7000-8000-0000000000ff")
NOON = dt.datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=dt.UTC)
#: Spaces, an escape, a repeated key, a number that no float holds: all of it must arrive as it left.
PAYLOAD = b'{ "price":1.10,"big":12345678901234567890.123456789 , "caf\\u00e9":"\xc3\xa9", "a":1,"a":2}'


def event(payload: bytes = PAYLOAD, **changes: Any) -> EventRecord:
    record = EventRecord(
        id=UUID(int=BATCH.int + 1),
        project_id=PROJECT,
        event_type="page_view",
        occurred_at=NOON,
        received_at=NOON + dt.timedelta(seconds=1),
        payload=msgspec.Raw(payload),
    )
    return msgspec.structs.replace(record, **changes)


RECORDS: list[msgspec.Struct] = [
    RawEventBatch(BATCH, NOON, NOON, [event(), event(user_id="u-1", anonymous_id="a", session_id="s", attempt=3)]),
    RawEventBatch(BATCH, NOON, NOON, []),
    HandlerBatch(BATCH, NOON, NOON, "tracking", [event(message_id="m-1")]),
    SettledDeltas(PROJECT, NOON, [SettledCount("page_view", NOON, processed=5), SettledCount("x", NOON, failed=1)]),
    DeadLetter("failed", "url: is required", "events.tracking", 3, 12345678901, NOON),
    DeadLetter("malformed", "not JSON", "raw-events", 0, 0, NOON, message_base64="AAE=", attempt=0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_is_written_is_read_again(record: msgspec.Struct) -> None:
    codec = RecordCodec(type(record))
    written = codec.encode(record)
    assert codec.decode(written) == record
    as_json = json.loads(written)
    assert as_json["schema_version"] == SCHEMA_VERSION


def test_a_payload_passes_through_both_hops_byte_for_byte() -> None:
    raw, handler = RecordCodec(UnreadBatch), RecordCodec(UnreadHandlerBatch)
    first = raw.decode(RecordCodec(RawEventBatch).encode(RawEventBatch(BATCH, NOON, NOON, [event()])))
    forwarded = handler.encode(UnreadHandlerBatch(BATCH, NOON, NOON, "tracking", first.events))
    assert handler.decode(forwarded).events == first.events
    assert bytes(RecordCodec(HandlerBatch).decode(forwarded).events[0].payload) == PAYLOAD


@pytest.mark.parametrize(("unread", "record"), [(UnreadBatch, RawEventBatch), (UnreadHandlerBatch, HandlerBatch)])
def test_a_batch_whose_events_are_bytes_has_the_fields_of_its_record_in_their_order(
    unread: type[msgspec.Struct], record: type[msgspec.Struct]
) -> None:
    def declared(of: type[msgspec.Struct]) -> list[tuple[str, object, object]]:
        return [(one.name, one.type, one.default) for one in msgspec.structs.fields(of) if one.name != "events"]

    assert unread.__struct_fields__ == record.__struct_fields__
    assert declared(unread) == declared(record)


def test_times_keep_their_microseconds_and_are_utc() -> None:
    codec = RecordCodec(RawEventBatch)
    decoded = codec.decode(codec.encode(RawEventBatch(BATCH, NOON, NOON, [event()]))).events[0]
    assert (decoded.occurred_at, decoded.occurred_at.utcoffset()) == (NOON, dt.timedelta(0))


def changed(**changes: Any) -> bytes:
    """Write a batch of one event as some other release might."""
    codec = RecordCodec(RawEventBatch)
    as_json = json.loads(codec.encode(RawEventBatch(BATCH, NOON, NOON, [event(b'{"a":1}')])))
    as_json.update(changes)
    return json.dumps(as_json).encode()


def test_fields_of_a_newer_release_are_ignored() -> None:
    codec = RecordCodec(RawEventBatch)
    events = json.loads(changed())["events"]
    events[0] |= {"country": "is", "labels": {"a": [1]}}
    decoded = codec.decode(changed(region="north", events=events))
    assert decoded == RawEventBatch(BATCH, NOON, NOON, [event(b'{"a": 1}')])


def test_a_newer_schema_version_is_told_apart() -> None:
    with pytest.raises(UnknownSchemaVersion, match=f"{SCHEMA_VERSION + 1} is newer than {SCHEMA_VERSION}"):
        RecordCodec(RawEventBatch).decode(changed(schema_version=SCHEMA_VERSION + 1))


def test_of_a_newer_record_the_keys_of_its_events_are_read_whatever_else_changed() -> None:
    owner, first, again = UUID(int=7), UUID(int=8 << 16), UUID(int=9 << 16)
    newer = {
        "schema_version": SCHEMA_VERSION + 3,
        "batch_id": {"of": "another type"},
        "events": [
            {"id": str(first), "project_id": str(owner), "payload_ref": "elsewhere"},
            {"id": str(again), "project_id": str(owner), "attempt": 2, "event_type": ["no", "text"]},
        ],
    }
    message = SimpleNamespace(topic="raw-events", partition=3, offset=17, value=json.dumps(newer).encode())
    for record_type in (RawEventBatch, HandlerBatch, UnreadBatch, UnreadHandlerBatch):
        found = RecordSchema(record_type).loads_value(None, message)
        assert found == Newer(
            "raw-events", 3, 17, SCHEMA_VERSION + 3, [EventKey(first, owner), EventKey(again, owner, 2)]
        )


@pytest.mark.parametrize("events", [None, "none", [{"id": "x"}], [1]])
def test_a_newer_record_whose_keys_cannot_be_read_is_malformed(events: object) -> None:
    data = json.dumps({"schema_version": SCHEMA_VERSION + 1, "events": events}).encode()
    message = SimpleNamespace(topic="raw-events", partition=3, offset=17, value=data)
    assert isinstance(RecordSchema(RawEventBatch).loads_value(None, message), Malformed)


def test_a_record_without_a_version_is_of_this_one() -> None:
    as_json = json.loads(changed())
    del as_json["schema_version"]
    assert RecordCodec(RawEventBatch).decode(json.dumps(as_json).encode()).schema_version == SCHEMA_VERSION


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x01", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no fields"),
        pytest.param(changed()[:-1], id="cut short"),
        pytest.param(changed() + b"x", id="more after it"),
        pytest.param(changed(batch_id="7"), id="no uuid"),
        pytest.param(changed(committed_at="yesterday"), id="no time"),
        pytest.param(changed(events={}), id="events of another type"),
        pytest.param(changed(schema_version="1"), id="version of another type"),
        pytest.param(changed().replace(b'"page_view"', b'"\xff"'), id="no UTF-8"),
        pytest.param(changed().replace(b'{"a": 1}', b"[" * 100_000 + b"]" * 100_000), id="nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        RecordCodec(RawEventBatch).decode(data)


def test_the_actor_of_an_event() -> None:
    who = {"user_id": "u", "anonymous_id": "a", "session_id": "s"}
    for expected in ("u", "a", "s", str(event().id)):
        record = event(b"{}", **who)
        assert record.actor == Event.of_record(record).actor == expected
        if who:
            del who[next(iter(who))]


def of_bytes(record: EventRecord) -> Event:
    return Event.of_bytes(as_bytes(record))


@pytest.mark.parametrize("read", [Event.of_record, of_bytes])
def test_a_handler_sees_the_record_with_exact_decimals(read: Callable[[EventRecord], Event]) -> None:
    seen = read(event(message_id="m-1", attempt=2))
    assert seen.payload["price"] == Decimal("1.10")
    assert str(seen.payload["price"]) == "1.10"
    assert seen.payload["big"] == Decimal("12345678901234567890.123456789")
    assert (seen.id, seen.project_id, seen.event_type) == (UUID(int=BATCH.int + 1), PROJECT, "page_view")
    assert (seen.occurred_at, seen.received_at) == (NOON, NOON + dt.timedelta(seconds=1))
    assert (seen.message_id, seen.attempt, seen.user_id) == ("m-1", 2, None)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"a":"\xff"}', id="no UTF-8"),
        pytest.param(b'{"a":1e99999999999999999999}', id="an exponent beyond Decimal"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested too deeply"),
    ],
)
def test_a_payload_that_cannot_be_read_is_a_decode_error(payload: bytes) -> None:
    for read in (Event.of_record, of_bytes):
        with pytest.raises(msgspec.DecodeError):
            read(event(payload))


def test_an_event_of_bytes_has_every_field_of_its_record() -> None:
    changes = {"asked_attempt": 3, "trying_since": NOON, "attempt": 4, "session_id": "s", "message_id": "m"}
    full = event(user_id="u", anonymous_id="a", **changes)
    assert of_bytes(full) == Event.of_record(full)
    assert Event.__struct_fields__ == EventRecord.__struct_fields__
