"""What intake writes is what any `RawEventBatch` would be, byte for byte."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import msgspec

from boost_streams.event_id import event_ids, id_texts
from boost_streams.records import EventRecord, RawEventBatch, RecordCodec
from db.intake import StoredBatch
from db.new_events import NewEvent
from web.outgoing import outgoing_batch

BATCH = UUID("019690a0-0000-7000-8000-000000000000")
COMMITTED = dt.datetime(2026, 5, 4, 12, 0, 0, 120_000, tzinfo=dt.UTC)
EARLIER = dt.datetime(2026, 5, 4, 11, 59, 59, tzinfo=dt.UTC)
ONE, OTHER = UUID(int=1), UUID(int=2)
EVENTS = [
    NewEvent(ONE, "page_view", b'{"url": "/"}'),
    NewEvent(ONE, "click", b"{}", "u", "a", "s", "m", EARLIER),
    NewEvent(OTHER, "known", b"{}", message_id="m-1"),
    NewEvent(OTHER, "page_view", b'{"a":1.10}', session_id="s", occurred_at=EARLIER, original_timestamp=COMMITTED),
    NewEvent(ONE, "page_view", b"{}", anonymous_id="a"),
]


def test_a_message_of_intake_is_a_raw_event_batch() -> None:
    ids = event_ids(BATCH, len(EVENTS))
    stored = StoredBatch(BATCH, COMMITTED, {2: UUID(int=99)})
    records = [
        EventRecord(
            id=event_id,
            project_id=event.project_id,
            event_type=event.event_type,
            occurred_at=event.occurred_at or COMMITTED,
            received_at=COMMITTED,
            payload=msgspec.Raw(event.payload),
            user_id=event.user_id,
            anonymous_id=event.anonymous_id,
            session_id=event.session_id,
            message_id=event.message_id,
        )
        for event_id, event in zip(ids, EVENTS, strict=True)
        if event.event_type != "known"
    ]
    written = msgspec.json.encode(outgoing_batch(EVENTS, stored, id_texts(BATCH, len(EVENTS)), COMMITTED))
    assert written == RecordCodec(RawEventBatch).encode(RawEventBatch(BATCH, COMMITTED, COMMITTED, records))
