"""Records as they are read from topics: their events as bytes."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from boost_streams.records import EventRecord, HandlerBatch, RawEventBatch, RecordCodec, UnreadBatch, UnreadHandlerBatch


def as_bytes(record: EventRecord) -> msgspec.Raw:
    """Return an event as it stands in a message."""
    return msgspec.Raw(msgspec.json.encode(record))


def unread(batch: RawEventBatch) -> UnreadBatch:
    """Return a batch as the dispatcher reads it."""
    return RecordCodec(UnreadBatch).decode(msgspec.json.encode(batch))


def unread_handler_batch(batch: HandlerBatch) -> UnreadHandlerBatch:
    """Return a batch as a handler agent reads it."""
    return RecordCodec(UnreadHandlerBatch).decode(msgspec.json.encode(batch))


def read(events: Iterable[msgspec.Raw]) -> list[EventRecord]:
    """Return the records of events that are bytes."""
    return [msgspec.json.decode(event, type=EventRecord) for event in events]
