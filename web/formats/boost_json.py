"""Boost's own body: one event as a JSON object, read once, its payload kept as the bytes that came in.

The limits are those of CONTRACTS.md. Every refusal names the field.
"""

from __future__ import annotations

import re
from typing import Annotated
from uuid import UUID

import msgspec

from boost_streams.errors import Invalid, MalformedJson, TooLarge
from db.new_events import NewEvent
from web.formats.client_clock import ClientClock
from web.formats.payload import MOST_DEPTH, checked_payload

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_EventType = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class EventBody(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /events`."""

    event_type: _EventType
    payload: msgspec.Raw
    user_id: _Id | None = None
    anonymous_id: _Id | None = None
    session_id: _Id | None = None
    timestamp: str | None = None
    message_id: _Id | None = None


_decoder = msgspec.json.Decoder(EventBody)
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")


def read_event(body: bytes, project_id: UUID, clock: ClientClock, max_event_bytes: int) -> NewEvent:
    """Read one event.

    Raises:
        MalformedJson: Not JSON.
        TooLarge: Over `max_event_bytes`.
        Invalid: A field is missing, unknown, of the wrong type or over a limit; names it.
    """
    if len(body) > max_event_bytes:
        raise TooLarge(f"an event may have {max_event_bytes} bytes, this one has {len(body)}")
    try:
        event = _decoder.decode(body)
    except msgspec.ValidationError as error:
        # The document may be both wrong in a field and not JSON further on: the syntax comes first.
        _check_syntax(body)
        raise _named(error) from None
    except RecursionError:
        raise Invalid.field("payload", f"must not be nested deeper than {MOST_DEPTH}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedJson(f"the event is not JSON: {error}") from None
    return new_event(event, project_id, clock)


def new_event(event: EventBody, project_id: UUID, clock: ClientClock) -> NewEvent:
    """Check what types cannot say, and build the event that intake stores.

    Raises:
        Invalid: A field is blank, holds a NUL, or the payload is not an object that `jsonb` keeps exactly.
    """
    event_type, user_id, anonymous_id = event.event_type, event.user_id, event.anonymous_id
    session_id, message_id = event.session_id, event.message_id
    if event_type.isspace():
        raise Invalid.field("eventType", "must not be blank")
    # Without calls: this is where most of the time of a large batch goes (docs/adr/0009).
    if (
        "\x00" in event_type
        or (user_id is not None and "\x00" in user_id)
        or (anonymous_id is not None and "\x00" in anonymous_id)
        or (session_id is not None and "\x00" in session_id)
        or (message_id is not None and "\x00" in message_id)
    ):
        raise _nul_in(event)
    occurred_at, said = (None, None) if event.timestamp is None else clock.occurred_at(event.timestamp)
    payload = checked_payload(bytes(event.payload))
    return NewEvent(project_id, event_type, payload, user_id, anonymous_id, session_id, message_id, occurred_at, said)


def _nul_in(event: EventBody) -> Invalid:
    texts = [event.event_type, event.user_id, event.anonymous_id, event.session_id, event.message_id]
    first = next(number for number, text in enumerate(texts) if text is not None and "\x00" in text)
    field = ("eventType", "userId", "anonymousId", "sessionId", "messageId")[first]
    return Invalid.field(field, "must not contain a NUL character")


def _check_syntax(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(f"the event is not JSON: {error}") from None


def _named(error: msgspec.ValidationError) -> Invalid:
    text = str(error)
    for pattern, message in ((_UNKNOWN, "is not known"), (_MISSING, "is required")):
        if match := pattern.match(text):
            return Invalid.field(match["field"], message)
    if match := _PATH.search(text):
        return Invalid.field(match["path"] or "body", text[: match.start()])
    return Invalid.field("body", "must be a JSON object: " + text if "object" in text else text)
