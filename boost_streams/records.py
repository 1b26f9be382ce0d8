"""The typed records that travel on topics, as CONTRACTS fixes them, and their codec.

Records are JSON on the wire, so that any console consumer can read them, and `msgspec` structs in memory:
slotted, checked while decoding, and able to carry a payload's bytes through untouched (`msgspec.Raw`).
docs/adr/0003 has the figures.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

#: The version that this release writes; it reads every version up to this one.
SCHEMA_VERSION = 1


class EventRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One event as it travels. `payload` holds the JSON object's bytes; times are UTC.

    `asked_attempt` is the attempt at which somebody last asked for another try, `trying_since` when a handler first
    answered "try again" since then: the limits of a handler count from there.
    """

    id: UUID
    project_id: UUID
    event_type: str
    occurred_at: dt.datetime
    received_at: dt.datetime
    payload: msgspec.Raw
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


def event_of_bytes(data: msgspec.Raw) -> EventRecord:
    """Read one event of a message, as bytes still.

    Raises:
        msgspec.DecodeError: It is no record of an event.
    """
    try:
        return _event_decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


_event_decoder: msgspec.json.Decoder[EventRecord] = msgspec.json.Decoder(EventRecord)


class RawEventBatch(msgspec.Struct, frozen=True, gc=False):
    """What was committed together: one message on `raw-events`.

    `published_at` is the database's time of the claim that led to this publish; consumers' progress is
    measured against it. `batch_id` names the `event_batches` row that owns the events of attempt 0. `suspect`: a worker
    died that had it on its way, and an event of it may be why.
    """

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    events: list[EventRecord]
    schema_version: int = SCHEMA_VERSION
    suspect: bool = False


class OutgoingEvent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A new event as intake writes it: an `EventRecord` of which what others share is text already."""

    id: str
    project_id: str
    event_type: str
    occurred_at: dt.datetime | str
    received_at: str
    payload: msgspec.Raw
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    message_id: str | None = None


class OutgoingBatch(msgspec.Struct, frozen=True, gc=False):
    """A `RawEventBatch` as intake writes it."""

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    events: list[OutgoingEvent]
    schema_version: int = SCHEMA_VERSION
    suspect: bool = False


class HandlerBatch(msgspec.Struct, frozen=True, gc=False):
    """The events that one handler family takes, of a batch or of several that were there together.

    One message on that family's topic. `batch_id` and the times are those of the batch that was published first;
    it is `suspect` when any of them is, or when the dispatcher had it from a partition of a worker that died.
    """

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    handler: str
    events: list[EventRecord]
    schema_version: int = SCHEMA_VERSION
    suspect: bool = False


class UnreadBatch(msgspec.Struct, frozen=True, gc=False):
    """A `RawEventBatch` as the dispatcher reads it: each of its events is the bytes of an `EventRecord`."""

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    events: list[msgspec.Raw]
    schema_version: int = SCHEMA_VERSION
    suspect: bool = False


class UnreadHandlerBatch(msgspec.Struct, frozen=True, gc=False):
    """A `HandlerBatch` as the dispatcher writes it and handler agents read it, its events as bytes (docs/adr/0031)."""

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    handler: str
    events: list[msgspec.Raw]
    schema_version: int = SCHEMA_VERSION
    suspect: bool = False


class Routing(msgspec.Struct, frozen=True, gc=False):
    """All that the dispatcher reads of an event."""

    event_type: str


class SettledCount(msgspec.Struct, frozen=True):
    """How many events of a type settled in one minute (UTC), by status."""

    event_type: str
    minute: dt.datetime
    processed: int = 0
    failed: int = 0


class SettledDeltas(msgspec.Struct, frozen=True):
    """What settled for one project since the last such message: a message on `events.settled`, keyed by project."""

    project_id: UUID
    settled_at: dt.datetime
    counts: list[SettledCount]
    schema_version: int = SCHEMA_VERSION


class DeadLetter(msgspec.Struct, frozen=True):
    """Something that will not be tried again: a failed event, or a message that could not be read."""

    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    at: dt.datetime
    project_id: UUID | None = None
    event_id: UUID | None = None
    event_type: str | None = None
    handler: str | None = None
    attempt: int | None = None
    message_base64: str | None = None
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that could not be decoded, with where it stood. It takes the record's place in a stream."""

    topic: str
    partition: int
    offset: int
    error: str
    raw: bytes


class EventKey(msgspec.Struct, frozen=True, gc=False):
    """Of an event on a record of whatever version: whose it is and which attempt was handed over."""

    id: UUID
    project_id: UUID
    attempt: int = 0


class _AnyVersion(msgspec.Struct, frozen=True, gc=False):
    """What every version of every record has. A release that breaks it strands the release before (docs/adr/0016)."""

    schema_version: int
    events: list[EventKey] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Newer:
    """A record of a newer release, of which only the events' keys are read. It takes the record's place in a stream."""

    topic: str
    partition: int
    offset: int
    schema_version: int
    events: list[EventKey]


RecordT = TypeVar("RecordT", bound=msgspec.Struct)


class UnknownSchemaVersion(ValueError):
    """A record was written by a newer release than this one; says which version, and which events it carries."""

    def __init__(self, schema_version: int, events: list[EventKey]) -> None:
        super().__init__(f"schema_version {schema_version} is newer than {SCHEMA_VERSION}")
        self.schema_version = schema_version
        self.events = events


class RecordCodec(Generic[RecordT]):
    """Encodes and decodes one type of record. Reused: building an encoder costs more than encoding."""

    def __init__(self, record_type: type[RecordT]) -> None:
        self.record_type = record_type
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record_type)
        self._any_version = msgspec.json.Decoder(_AnyVersion)

    def encode(self, record: RecordT) -> bytes:
        """Write a record as JSON bytes."""
        return self._encoder.encode(record)

    def decode(self, data: bytes) -> RecordT:
        """Read a record from JSON bytes.

        Raises:
            msgspec.DecodeError: not JSON, not of this record's shape, or nested too deeply to read.
            UnknownSchemaVersion: written by a newer release.
        """
        try:
            record: RecordT = self._decoder.decode(data)
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None
        except msgspec.DecodeError:
            self._refuse_newer(data)  # it may have fields that look broken to this release
            raise
        version = getattr(record, "schema_version", SCHEMA_VERSION)
        if version > SCHEMA_VERSION:
            self._refuse_newer(data)
            raise UnknownSchemaVersion(version, [])
        return record

    def _refuse_newer(self, data: bytes) -> None:
        try:
            found = self._any_version.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if found.schema_version > SCHEMA_VERSION:
            raise UnknownSchemaVersion(found.schema_version, found.events or [])
