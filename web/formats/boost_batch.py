"""Boost's own batch: an object with `events`, an array, or JSON lines.

The whole body is read in one go. Only when that fails is it split into events that are read one by one, so that
an event that is wrong, or is no JSON, costs none of the others.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

import msgspec

from boost_streams.errors import (
    BoostError,
    FieldProblem,
    Invalid,
    MalformedJson,
    RequestError,
    TooLarge,
    without_frames,
)
from db.new_events import NewEvent
from web.formats.boost_json import EventBody, new_event, read_event
from web.formats.client_clock import ClientClock
from web.formats.json_parts import array_parts, object_members

#: What became of each event of a body, in order: what intake stores, or why it is refused.
Read = NewEvent | BoostError


class BatchBody(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /events/batch` as an object."""

    events: list[EventBody]
    sent_at: str | None = None


class _RawBatch(msgspec.Struct, gc=False, rename="camel"):
    events: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """Whose events they are, when they were received, how large (bytes) and how many they may be."""

    project_id: UUID
    received_at: dt.datetime
    max_event_bytes: int
    max_batch_events: int


#: An array with more commas is split part by part: to split it at once might take much memory.
MOST_COMMAS = 200_000
_batch_decoder = msgspec.json.Decoder(BatchBody)
_raw_batch_decoder = msgspec.json.Decoder(_RawBatch)
_list_decoder = msgspec.json.Decoder(list[EventBody])
_raw_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_line_decoder = msgspec.json.Decoder(EventBody)
_LINE = re.compile(rb"\S[^\n]*+")
#: One event alone, or lines of events that are not sent as such, begin with one of these.
_EVENT_FIELDS = frozenset(one.encode_name for one in msgspec.structs.fields(EventBody))
_OF_AN_EVENT = (
    'belongs to an event; send an array of events, {"events": [event, …]}, or JSON lines as application/x-ndjson'
)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_batch(body: bytes, terms: BatchTerms) -> list[Read]:
    """Read a JSON body: an array of events, or an object that holds one as `events`.

    Raises:
        MalformedJson: It cannot be told where one event ends and the next begins.
        TooLarge: It holds more than `max_batch_events`.
        Invalid: It holds no event, or something else than events.
    """
    body = body.strip()
    is_array = body[:1] == b"["
    try:
        batch = BatchBody(_list_decoder.decode(body)) if is_array else _batch_decoder.decode(body)
    except _UNREADABLE:
        events, sent_at = (body, None) if is_array else _members_of(body)
        return _read_each(_split(events), terms, ClientClock.of_request(terms.received_at, sent_at))
    clock = ClientClock.of_request(terms.received_at, batch.sent_at)
    if len(body) > terms.max_event_bytes and len(batch.events) <= terms.max_batch_events:
        raw = _raw_list_decoder.decode(body) if is_array else _raw_batch_decoder.decode(body).events
        if max(map(len, raw), default=0) > terms.max_event_bytes:
            return _read_each(map(bytes, raw), terms, clock)
    return _read_all(batch.events, terms, clock)


def read_lines(body: bytes, terms: BatchTerms) -> list[Read]:
    """Read JSON lines, an event each; blank lines are passed over and not counted.

    Raises:
        TooLarge: There are more than `max_batch_events`.
        Invalid: There is no event.
    """
    clock = ClientClock(terms.received_at)
    lines = (match[0] for match in _LINE.finditer(body))
    try:
        events = _line_decoder.decode_lines(body)
    except _UNREADABLE:
        return _read_each(lines, terms, clock)
    if len(body) > terms.max_event_bytes and any(len(line) > terms.max_event_bytes for line in _LINE.findall(body)):
        return _read_each(lines, terms, clock)
    return _read_all(events, terms, clock)


def _read_all(events: list[EventBody], terms: BatchTerms, clock: ClientClock) -> list[Read]:
    _check_number(len(events), terms)
    read: list[Read] = []
    for event in events:
        try:
            read.append(new_event(event, terms.project_id, clock))
        except RequestError as error:
            read.append(without_frames(error))
    return read


def _read_each(parts: Iterable[bytes], terms: BatchTerms, clock: ClientClock) -> list[Read]:
    read: list[Read] = []
    for part in islice(parts, terms.max_batch_events + 1):
        try:
            read.append(read_event(part.strip(), terms.project_id, clock, terms.max_event_bytes))
        except RequestError as error:
            read.append(without_frames(error))
    _check_number(len(read), terms)
    return read


def _check_number(number: int, terms: BatchTerms) -> None:
    if not number:
        raise Invalid.field("events", "must hold at least one event")
    if number > terms.max_batch_events:
        message = f"may hold {terms.max_batch_events} events"
        raise TooLarge(f"events: {message}", problems=(FieldProblem("events", message),))


def _split(events: bytes) -> Iterable[bytes]:
    """Split an array: fast where it is JSON, else by its brackets."""
    if events.count(b",") <= MOST_COMMAS:
        with contextlib.suppress(*_UNREADABLE):
            return map(bytes, _raw_list_decoder.decode(events))
    return array_parts(events)


def _members_of(body: bytes) -> tuple[bytes, str | None]:
    """Return the array `events`, as bytes, and `sentAt` of an object that as a whole cannot be read."""
    if body[:1] != b"{":
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
        except _UNREADABLE as error:
            raise MalformedJson(f"the body is not JSON: {error}") from None
        raise Invalid.field("body", "must be an object with events, or an array of events")
    members: dict[str, bytes] = {}
    for name, value in object_members(body):
        if name not in ("events", "sentAt"):
            raise Invalid.field(name, _OF_AN_EVENT if name in _EVENT_FIELDS else "is not known")
        members[name] = value
    events = members.get("events")
    if events is None:
        raise Invalid.field("events", "is required")
    if events[:1] != b"[":
        raise Invalid.field("events", "must be an array")
    try:
        return events, msgspec.json.decode(members.get("sentAt", b"null"), type=str | None)
    except _UNREADABLE:
        raise Invalid.field("sentAt", "must be a string") from None
