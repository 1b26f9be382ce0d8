"""The message that tells of a commit, written for speed: what events have in common is made text once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec

from boost_streams.records import OutgoingBatch, OutgoingEvent
from db.intake import StoredBatch
from db.new_events import NewEvent


def outgoing_batch(
    events: Sequence[NewEvent], stored: StoredBatch, texts: Sequence[str], committed_at: dt.datetime
) -> OutgoingBatch:
    """Build the message of a commit: the events that it stored, without those that were there before.

    Args:
        events: What the commit was given.
        stored: What it stored.
        texts: The ids that it gave, as text.
        committed_at: When.
    """
    received_at: str = msgspec.to_builtins(committed_at)
    project_id, project = None, ""
    records = []
    for position, (event, text) in enumerate(zip(events, texts, strict=True)):
        if position in stored.duplicates:
            continue
        if event.project_id is not project_id:  # events of a request share one object
            project_id = event.project_id
            project = str(project_id)
        records.append(
            OutgoingEvent(
                text,
                project,
                event.event_type,
                event.occurred_at or received_at,
                received_at,
                msgspec.Raw(event.payload),
                event.user_id,
                event.anonymous_id,
                event.session_id,
                event.message_id,
            )
        )
    return OutgoingBatch(stored.batch_id, committed_at, committed_at, records)
