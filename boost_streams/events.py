"""An event as handlers see it: its ids and times, and the payload as a mapping."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import msgspec

from boost_streams.records import EventRecord

_payload_decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_UNREADABLE = (UnicodeDecodeError, RecursionError, InvalidOperation)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `payload`'s decimals are `Decimal`, so that no money is rounded; times are UTC.

    `asked_attempt` and `trying_since` are those of its record.
    """

    id: UUID
    project_id: UUID
    event_type: str
    occurred_at: dt.datetime
    received_at: dt.datetime
    payload: Mapping[str, Any]
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    message_id: str | None = None
    attempt: int = 0
    asked_attempt: int = 0
    trying_since: dt.datetime | None = None

    @property
    def actor(self) -> str:
        """Who did it: the user, else the anonymous visitor, else the session, else the event itself."""
        return self.user_id or self.anonymous_id or self.session_id or str(self.id)

    @classmethod
    def of_record(cls, record: EventRecord) -> Event:
        """Read the payload of a record.

        Raises:
            msgspec.DecodeError: The payload is no JSON object, or holds what cannot be read: bytes that are
                no UTF-8, a number whose exponent no `Decimal` takes, nesting beyond Python's limit.
        """
        return cls(
            record.id,
            record.project_id,
            record.event_type,
            record.occurred_at,
            record.received_at,
            _decode_payload(record.payload),
            record.user_id,
            record.anonymous_id,
            record.session_id,
            record.message_id,
            record.attempt,
            record.asked_attempt,
            record.trying_since,
        )

    @classmethod
    def of_bytes(cls, record: msgspec.Raw) -> Event:
        """Read a record that is bytes still, and its payload, in one go.

        Raises:
            msgspec.DecodeError: It is no record, or its payload is as `of_record` says.
        """
        try:
            return _event_decoder.decode(record)
        except _UNREADABLE as error:
            raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from None


_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event, float_hook=Decimal)


def _decode_payload(payload: msgspec.Raw) -> dict[str, Any]:
    try:
        return _payload_decoder.decode(payload)
    except _UNREADABLE as error:
        raise msgspec.DecodeError(f"{type(error).__name__}: {error}") from None
