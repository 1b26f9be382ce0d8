"""What the dead letters of a batch say: who failed, by which handler, and where it stood on the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from uuid import UUID

import msgspec

from agents.effects import Settled
from agents.payload_fields import clean_text
from agents.registry import Registry
from agents.streams import Taken
from boost_streams.outcomes import Failed
from boost_streams.records import EventKey, UnreadHandlerBatch
from db.burial import Burial, Origin

_key_decoder = msgspec.json.Decoder(EventKey)


class Origins:
    """Where the events of some messages stood; looked up only once one of them fails."""

    def __init__(self, taken: Sequence[Taken] = ()) -> None:
        self._taken = taken
        self._found: dict[UUID | None, Taken] | None = None

    def of(self, event_id: UUID) -> Origin | None:
        """Return where an event stood; None when none of the messages holds it."""
        if self._found is None:
            held = ((message, message.value) for message in self._taken)
            readable = ((message, batch.events) for message, batch in held if isinstance(batch, UnreadHandlerBatch))
            self._found = {_id_of(event): message for message, events in readable for event in events}
        message = self._found.get(event_id)
        return None if message is None else Origin(message.topic, message.partition, message.offset)


def _id_of(event: msgspec.Raw) -> UUID | None:
    """Return the id of an event that is bytes still; None when it cannot be read."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _key_decoder.decode(event).id
    return None


def said(text: object) -> str:
    """Return what a handler said as PostgreSQL can store it: with a text that it refuses no event could even fail."""
    return clean_text(str(text))


def burials_of(batch: Sequence[Settled], registry: Registry, origins: Origins) -> list[Burial]:
    """Return what is to be buried of a batch: one burial for each event that failed."""
    return [
        Burial(
            project_id=event.project_id,
            event_id=event.id,
            event_type=event.event_type,
            handler=registry.handler_of(event.event_type).name,
            code=said(outcome.code),
            field=None if outcome.field is None else said(outcome.field),
            message=said(outcome.message),
            attempts=event.attempt + 1,
            origin=origins.of(event.id),
        )
        for event, outcome in ((settled.event, settled.outcome) for settled in batch)
        if isinstance(outcome, Failed)
    ]
