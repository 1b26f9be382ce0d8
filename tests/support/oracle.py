"""The oracle: every event that was answered is terminal, and effects equal a fold over the rows of `events`."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

import msgspec

from agents.effects import Settled, additions_of, sightings_of
from agents.handlers import load_registry
from boost_streams.events import Event
from db.batches import record_of_row
from db.pool import Database

_REGISTRY = load_registry()


async def unsettled(database: Database) -> int:
    """Count events that are not terminal yet."""
    async with database.across_projects() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM events WHERE status = 'pending'")
    return count


async def check(database: Database, accepted: Collection[str]) -> None:
    """Assert that the accepted events are terminal, nothing is left over, and effects were written once."""
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT * FROM events ORDER BY id")
        rollups = await connection.fetch("SELECT * FROM rollups")
        users = await connection.fetch("SELECT * FROM end_users")
        left = await connection.fetchval(
            "SELECT (SELECT count(*) FROM event_batches) + (SELECT count(*) FROM event_retries)"
        )
    stored = {str(row["id"]): row for row in rows}
    lost = [event_id for event_id in accepted if event_id not in stored]
    assert not lost, f"{len(lost)} accepted events are not stored: {lost[:5]}"
    pending = [row["id"] for row in rows if row["status"] == "pending"]
    assert not pending, f"{len(pending)} events are still pending: {pending[:5]}"
    assert left == 0, f"{left} batches or retries are left over"

    settled = []
    for row in rows:
        event = Event.of_record(record_of_row(row))
        outcome = _REGISTRY.handler_of(event.event_type).handle(event)
        settled.append(Settled(event, outcome))
        assert (row["status"] == "failed") == (type(outcome).__name__ == "Failed"), row
    expected = {
        (key.project_id, key.metric, key.bucket_start, key.dimensions): added
        for key, added in additions_of(settled).items()
    }
    found: dict[tuple[UUID, str, object, tuple[str, ...]], tuple[int, Decimal]] = {
        (row["project_id"], row["metric"], row["bucket_start"], tuple(row["dimensions"])): (row["count"], row["amount"])
        for row in rollups
    }
    wrong = {
        key: (found.get(key), expected.get(key)) for key in {*found, *expected} if found.get(key) != expected.get(key)
    }
    assert not wrong, f"{len(wrong)} counters differ (found, expected): {list(wrong.items())[:5]}"

    sightings = {sighting.id: sighting for sighting in sightings_of(settled)}
    assert {row["id"] for row in users} == set(sightings)
    for row in users:
        sighting = sightings[row["id"]]
        plain = msgspec.json.decode(msgspec.json.encode(sighting.traits, enc_hook=str))
        assert msgspec.json.decode(row["traits"]) == plain
        assert (row["first_seen_at"], row["last_seen_at"]) == (sighting.first_seen_at, sighting.last_seen_at)
        assert (row["signed_up_at"], row["logins"]) == (sighting.signed_up_at, sighting.logins)
