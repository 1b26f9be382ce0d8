"""Boost's own body: one event as a JSON object, read once, its payload kept as the bytes that came in.

The limits are those of CONTRACTS.md. Every refusal names the field.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec

from boost_streams.errors import Invalid, MalformedJson, TooLarge
from db.intake import NewEvent
from web.formats.client_clock import ClientClock

#: How deep a payload may be nested.
MOST_DEPTH = 64
#: `jsonb` writes numbers out in full: 1e-16000 would come back as 16,000 digits. A double's range is enough.
LARGEST_EXPONENT = 308
_LARGEST_BITS = 1024

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_EventType = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class EventBody(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /events`."""

    event_type: _EventType
    payload: msgspec.Raw
    user_id: _Id | None = None
    anonymous_id: _Id | None = None
    session_id: _Id | None = None
    timestamp: str | None = None
    message_id: _Id | None = None


_decoder = msgspec.json.Decoder(EventBody)
_any_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
#: What could hide a NUL, and a number that a float cannot hold. Lone surrogates are no JSON to the decoder.
_SUSPECT = re.compile(rb"\\u0000|[0-9][eE]|[0-9]{17}")


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
        raise MalformedJson(f"the body is not JSON: {error}") from None
    return new_event(event, project_id, clock)


def new_event(event: EventBody, project_id: UUID, clock: ClientClock) -> NewEvent:
    """Check what types cannot say, and build the event that intake stores.

    Raises:
        Invalid: A field is blank, holds a NUL, or the payload is not an object that `jsonb` keeps exactly.
    """
    if not event.event_type.strip():
        raise Invalid.field("eventType", "must not be blank")
    for field, value in (
        ("eventType", event.event_type),
        ("userId", event.user_id),
        ("anonymousId", event.anonymous_id),
        ("sessionId", event.session_id),
        ("messageId", event.message_id),
    ):
        if value is not None:
            _check_text(field, value)
    occurred_at, said = (None, None) if event.timestamp is None else clock.occurred_at(event.timestamp)
    return NewEvent(
        project_id=project_id,
        event_type=event.event_type,
        payload=_checked_payload(bytes(event.payload)),
        user_id=event.user_id,
        anonymous_id=event.anonymous_id,
        session_id=event.session_id,
        message_id=event.message_id,
        occurred_at=occurred_at,
        original_timestamp=said,
    )


def _checked_payload(payload: bytes) -> bytes:
    if payload[:1] != b"{":
        raise Invalid.field("payload", "must be a JSON object")
    deep = payload.count(b"{") + payload.count(b"[") > MOST_DEPTH
    if deep or _SUSPECT.search(payload):
        try:
            value = _any_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ArithmeticError, ValueError) as error:
            raise Invalid.field("payload", _payload_problem(error)) from None
        _walk(value)
    return payload


def _walk(value: Any) -> None:
    """Look at every value of a suspect payload, without recursion."""
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    _check_text("payload", key)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            else:
                _check_scalar(node)
        level = below
        if not level:
            return
    if any(isinstance(node, dict | list) for node in level):
        raise Invalid.field("payload", f"must not be nested deeper than {MOST_DEPTH}")
    for node in level:
        _check_scalar(node)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        _check_text("payload", value)
    elif isinstance(value, Decimal):
        if value and abs(value.adjusted()) > LARGEST_EXPONENT:
            raise Invalid.field("payload", f"holds a number beyond 1e±{LARGEST_EXPONENT}")
    elif isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise Invalid.field("payload", f"holds a number beyond 1e±{LARGEST_EXPONENT}")


def _check_text(field: str, text: str) -> None:
    if "\x00" in text:
        raise Invalid.field(field, "must not contain a NUL character")


def _check_syntax(body: bytes) -> None:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedJson(f"the body is not JSON: {error}") from None


def _payload_problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"must not be nested deeper than {MOST_DEPTH}"
    return f"cannot be read: {error}"


def _named(error: msgspec.ValidationError) -> Invalid:
    text = str(error)
    for pattern, message in ((_UNKNOWN, "is not known"), (_MISSING, "is required")):
        if match := pattern.match(text):
            return Invalid.field(match["field"], message)
    if match := _PATH.search(text):
        return Invalid.field(match["path"] or "body", text[: match.start()])
    return Invalid.field("body", "must be a JSON object: " + text if "object" in text else text)
