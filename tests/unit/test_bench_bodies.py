"""The events of the bench are of one size, are all taken, and are all processed."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter

import msgspec

from agents.handlers import load_registry
from bench.bodies import EVENT_BYTES, event_bodies, new_events, with_message_id, write_bodies
from boost_streams.events import Event
from boost_streams.outcomes import Processed
from boost_streams.records import EventRecord

_PROJECTS = [uuid.UUID(int=1), uuid.UUID(int=2)]


def test_every_event_has_the_size_that_is_said_and_the_same_seed_gives_the_same_events() -> None:
    bodies = event_bodies(500)

    assert {len(body) for body in bodies} == {EVENT_BYTES}
    assert bodies == event_bodies(500)


def test_every_event_is_read_and_processed_and_every_family_gets_some() -> None:
    registry, now = load_registry(), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    families: Counter[str] = Counter()
    for new in new_events(_PROJECTS, 2_000):
        record = EventRecord(
            uuid.UUID(int=9), new.project_id, new.event_type, now, now, msgspec.Raw(new.payload), user_id=new.user_id
        )
        handler = registry.handler_of(new.event_type)
        outcome = handler.handle(Event.of_record(record))
        assert isinstance(outcome, Processed), (new, outcome)
        families[handler.family] += 1

    assert set(families) == {"tracking", "user", "payment", "default"}


def test_events_carry_message_ids_that_differ_where_they_are_asked_for() -> None:
    with_ids = list(new_events(_PROJECTS, 100, message_prefix="run-"))

    assert len({event.message_id for event in with_ids}) == 100
    assert all(event.message_id is None for event in new_events(_PROJECTS, 10))
    assert msgspec.json.decode(with_message_id(b'{"eventType":"a"}', "m")) == {"eventType": "a", "messageId": "m"}


def test_bodies_are_written_one_a_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lines = write_bodies(tmp_path / "events.jsonl", 10).read_bytes().splitlines()

    assert lines == event_bodies(10)
