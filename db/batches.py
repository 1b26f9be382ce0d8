"""What is not settled yet: batches and retries, claimed by the sweeper, released when a publish failed."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from boost_streams.event_id import day_of
from boost_streams.records import EventRecord
from db.journey import note_publishes_across_projects
from db.pool import Connection

#: The longest pause between two publishes of the same batch (seconds).
LONGEST_PAUSE_SECONDS = 3600.0
#: "Nothing has been passed": only what is known to be unpublished is claimed.
NOTHING_PASSED = dt.datetime.fromtimestamp(0, dt.UTC)

_COLUMNS = (
    "e.id, e.project_id, e.event_type, e.occurred_at, e.received_at, e.payload, e.user_id, e.anonymous_id, "
    "e.session_id, e.message_id, e.attempt"
)
_DUE_BATCHES = """
SELECT id, unsettled FROM event_batches
WHERE due_at <= now() AND (last_published_at IS NULL OR last_published_at < $1)
ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
# The same for what is known not to be on the broker: its own index keeps this cheap behind a long backlog.
_UNPUBLISHED_BATCHES = """
SELECT id, unsettled FROM event_batches WHERE due_at <= now() AND last_published_at IS NULL
ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_CLAIM_BATCHES = """
UPDATE event_batches SET
    due_at = now() + make_interval(secs => least($2 * power(2, least(publish_count, 20)), $3)),
    last_published_at = now(), publish_count = publish_count + 1, worker_id = $4, seq = $5
WHERE id = ANY($1::uuid[])
RETURNING id, project_ids, first_id, last_id, created_at, last_published_at, suspect
"""
_PENDING_OF_BATCH = f"""
SELECT {_COLUMNS} FROM events e
WHERE e.project_id = ANY($1::uuid[]) AND e.id BETWEEN $2 AND $3 AND e.status = 'pending' AND e.attempt = 0
ORDER BY e.id
"""  # noqa: S608 - only column names are put in
_RELEASE_BATCHES = """
WITH mine AS (SELECT id FROM event_batches WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE)
UPDATE event_batches b SET last_published_at = NULL, due_at = now() FROM mine m WHERE b.id = m.id RETURNING b.id
"""
_RELEASE_ALL = "UPDATE event_batches SET last_published_at = NULL, due_at = now()"
_RELEASE_ALL_RETRIES = """
UPDATE event_retries SET last_published_at = NULL, due_at = now() WHERE last_published_at IS NOT NULL
"""
# The same in pieces, for when settling goes on meanwhile: rows in the order in which settling locks them.
_RELEASE_PUBLISHED = """
WITH mine AS (
    SELECT id FROM event_batches WHERE last_published_at < $1 ORDER BY id LIMIT $2 FOR UPDATE)
UPDATE event_batches b SET last_published_at = NULL, due_at = now() FROM mine m WHERE b.id = m.id
"""
_RELEASE_PUBLISHED_RETRIES = """
WITH mine AS (
    SELECT project_id, event_id FROM event_retries WHERE last_published_at < $1
    ORDER BY project_id, event_id LIMIT $2 FOR UPDATE)
UPDATE event_retries r SET last_published_at = NULL, due_at = now() FROM mine m
WHERE r.project_id = m.project_id AND r.event_id = m.event_id
"""
_NOW = "SELECT now()"
_MOST_RELEASED = 2000
#: How many batches are locked at first, and how many times as many then, to claim as many events as are asked for.
_FIRST_LOOK = 8
_LOCK_BATCH = "SELECT project_ids, first_id, last_id FROM event_batches WHERE id = $1 FOR UPDATE"
_COUNT_PENDING = """
SELECT count(*) FROM events
WHERE project_id = ANY($1::uuid[]) AND id BETWEEN $2 AND $3 AND status = 'pending' AND attempt = 0
"""
_DROP_BATCH = "DELETE FROM event_batches WHERE id = $1"
_SET_UNSETTLED = "UPDATE event_batches SET unsettled = $2 WHERE id = $1"

_DUE_RETRIES = """
SELECT project_id, event_id FROM event_retries
WHERE due_at <= now() AND (last_published_at IS NULL OR last_published_at < $1)
ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_CLAIM_RETRIES = """
UPDATE event_retries r SET
    due_at = now() + make_interval(secs => least($3 * power(2, least(r.publish_count, 20)), $4)),
    last_published_at = now(), publish_count = r.publish_count + 1, worker_id = $5, seq = $6
FROM unnest($1::uuid[], $2::uuid[]) AS t (project_id, event_id)
WHERE r.project_id = t.project_id AND r.event_id = t.event_id
RETURNING r.project_id, r.event_id, r.attempt, r.last_published_at, r.asked_attempt, r.trying_since, r.suspect
"""
# OFFSET 0 keeps the list outside and the look-up by key inside, whatever plan is cached.
_PENDING_OF_RETRIES = f"""
SELECT {_COLUMNS} FROM unnest($1::uuid[], $2::uuid[], $3::int[]) AS t (project_id, event_id, attempt)
CROSS JOIN LATERAL (
    SELECT * FROM events s
    WHERE s.project_id = t.project_id AND s.id = t.event_id AND s.id BETWEEN $4 AND $5
        AND s.status = 'pending' AND s.attempt = t.attempt
    OFFSET 0
) e
"""  # noqa: S608 - only column names are put in
_RELEASE_CLAIMED_BATCHES = """
WITH mine AS (SELECT id FROM event_batches WHERE worker_id = $1 AND seq = $2 ORDER BY id FOR UPDATE)
UPDATE event_batches b SET last_published_at = NULL, due_at = now() FROM mine m WHERE b.id = m.id
"""
_RELEASE_CLAIMED_RETRIES = """
WITH mine AS (
    SELECT project_id, event_id FROM event_retries WHERE worker_id = $1 AND seq = $2
    ORDER BY project_id, event_id FOR UPDATE)
UPDATE event_retries r SET last_published_at = NULL, due_at = now() FROM mine m
WHERE r.project_id = m.project_id AND r.event_id = m.event_id
"""
_DROP_RETRIES = """
DELETE FROM event_retries r USING unnest($1::uuid[], $2::uuid[], $3::int[]) AS t (project_id, event_id, attempt)
WHERE r.project_id = t.project_id AND r.event_id = t.event_id AND r.attempt = t.attempt
"""
_BACKLOG = """
SELECT count(*) AS batches, coalesce(sum(unsettled), 0)::bigint AS events,
       count(*) FILTER (WHERE last_published_at IS NULL) AS unpublished_batches,
       coalesce(sum(unsettled) FILTER (WHERE last_published_at IS NULL), 0)::bigint AS unpublished_events,
       count(*) FILTER (WHERE created_at < now() - make_interval(secs => $1)) AS stuck_batches,
       coalesce(sum(unsettled) FILTER (WHERE created_at < now() - make_interval(secs => $1)), 0)::bigint
           AS stuck_events,
       (SELECT count(*) FROM event_retries) AS retries
FROM event_batches
"""


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """A batch that this worker is about to publish, with its events that are still pending.

    `suspect`: a worker that died had it on its way, and may have died of an event of it.
    """

    batch_id: UUID
    committed_at: dt.datetime
    published_at: dt.datetime
    events: list[EventRecord]
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims, under which number, and for how long (seconds before the same may be claimed again)."""

    worker_id: UUID
    seq: int
    pause_seconds: float


async def claim_due_batches_across_projects(
    connection: Connection, claim: Claim, passed_at: dt.datetime, most_events: int
) -> list[ClaimedBatch]:
    """Claim batches that are due and unpublished, or published before `passed_at`, oldest due first.

    Claims until about `most_events` events are covered (at least one batch). The claim is committed before
    anything is sent; a batch that turns out to own no pending event is set right and left out.
    """
    async with connection.transaction():
        chosen, events = [], 0
        for row in await _lock_due(connection, passed_at, most_events):
            if events >= most_events:
                break
            chosen.append(row["id"])
            events += row["unsettled"]
        rows = await claim_locked_across_projects(connection, claim, chosen)
    return await with_their_events_across_projects(connection, rows)


async def _lock_due(connection: Connection, passed_at: dt.datetime, most_events: int) -> list[Any]:
    """Lock batches until so many events are covered: few at first, since under load a batch holds hundreds."""
    most = min(_FIRST_LOOK, most_events)
    while True:
        if passed_at == NOTHING_PASSED:
            due: list[Any] = await connection.fetch(_UNPUBLISHED_BATCHES, most)
        else:
            due = await connection.fetch(_DUE_BATCHES, passed_at, most)
        if len(due) < most or most == most_events or sum(row["unsettled"] for row in due) >= most_events:
            return due
        most = min(most * _FIRST_LOOK, most_events)


async def claim_locked_across_projects(connection: Connection, claim: Claim, chosen: Sequence[UUID]) -> list[Any]:
    """Claim batches that the caller has locked in its transaction; return their rows."""
    if not chosen:
        return []
    ids = sorted(chosen)
    await note_publishes_across_projects(connection, ids, [0] * len(ids), claim.worker_id)
    rows: list[Any] = await connection.fetch(
        _CLAIM_BATCHES, ids, claim.pause_seconds, LONGEST_PAUSE_SECONDS, claim.worker_id, claim.seq
    )
    return rows


async def with_their_events_across_projects(connection: Connection, rows: Sequence[Any]) -> list[ClaimedBatch]:
    """Read the pending events of claimed batches, when the claim is committed: no lock is held meanwhile.

    A batch that turns out to own none is set right; it comes back without events.
    """
    claimed = []
    for row in rows:
        pending = await connection.fetch(_PENDING_OF_BATCH, row["project_ids"], row["first_id"], row["last_id"])
        records = [record_of_row(event) for event in pending]
        if not records:
            await reconcile_batch_across_projects(connection, row["id"])
        claimed.append(ClaimedBatch(row["id"], row["created_at"], row["last_published_at"], records, row["suspect"]))
    return claimed


async def claim_due_retries_across_projects(
    connection: Connection, claim: Claim, passed_at: dt.datetime, most_events: int
) -> list[ClaimedBatch]:
    """Claim retries that are due, as one batch per day of event ids; ids of batches are those of their first event."""
    async with connection.transaction():
        due = await connection.fetch(_DUE_RETRIES, passed_at, most_events)
        if not due:
            return []
        pairs = sorted((row["project_id"], row["event_id"]) for row in due)
        rows = await connection.fetch(
            _CLAIM_RETRIES,
            [project for project, _ in pairs],
            [event for _, event in pairs],
            claim.pause_seconds,
            LONGEST_PAUSE_SECONDS,
            claim.worker_id,
            claim.seq,
        )
        ids, attempts = [row["event_id"] for row in rows], [row["attempt"] for row in rows]
        await note_publishes_across_projects(connection, ids, attempts, claim.worker_id)
    by_day: dict[dt.date, list[Any]] = defaultdict(list)
    for row in rows:
        by_day[day_of(row["event_id"])].append(row)
    return [await _claimed_retries(connection, day_rows) for _, day_rows in sorted(by_day.items())]


async def _claimed_retries(connection: Connection, rows: Sequence[Any]) -> ClaimedBatch:
    projects = [row["project_id"] for row in rows]
    ids = [row["event_id"] for row in rows]
    attempts = [row["attempt"] for row in rows]
    found = await connection.fetch(_PENDING_OF_RETRIES, projects, ids, attempts, min(ids), max(ids))
    claimed = {row["event_id"]: row for row in rows}
    records = [
        msgspec.structs.replace(
            record_of_row(event),
            asked_attempt=claimed[event["id"]]["asked_attempt"],
            trying_since=claimed[event["id"]]["trying_since"],
        )
        for event in found
    ]
    alive = {record.id for record in records}
    gone = [n for n, event_id in enumerate(ids) if event_id not in alive]
    if gone:
        await connection.execute(
            _DROP_RETRIES, [projects[n] for n in gone], [ids[n] for n in gone], [attempts[n] for n in gone]
        )
    published_at = rows[0]["last_published_at"]
    return ClaimedBatch(min(ids), published_at, published_at, records, any(row["suspect"] for row in rows))


async def release_batches_across_projects(connection: Connection, batch_ids: Sequence[UUID]) -> set[UUID]:
    """Say that these batches are not on the broker: whoever sweeps next publishes them. Return those that exist."""
    return {row["id"] for row in await connection.fetch(_RELEASE_BATCHES, list(batch_ids))}


async def release_claim_across_projects(connection: Connection, worker_id: UUID, seq: int) -> None:
    """Say that what a worker claimed under a number is not, or not all, on the broker."""
    async with connection.transaction():
        await connection.execute(_RELEASE_CLAIMED_BATCHES, worker_id, seq)
        await connection.execute(_RELEASE_CLAIMED_RETRIES, worker_id, seq)


async def release_everything_across_projects(connection: Connection) -> int:
    """Say that the broker forgot everything; returns how many batches will be published again."""
    async with connection.transaction():
        tag: str = await connection.execute(_RELEASE_ALL)
        await connection.execute(_RELEASE_ALL_RETRIES)
    return int(tag.rpartition(" ")[2])


async def release_published_across_projects(connection: Connection) -> int:
    """Say that nothing of what was published until now is on the broker; return how many batches and retries."""
    now = await connection.fetchval(_NOW)
    released = 0
    for statement in (_RELEASE_PUBLISHED, _RELEASE_PUBLISHED_RETRIES):
        count = _MOST_RELEASED
        while count == _MOST_RELEASED:
            tag: str = await connection.execute(statement, now, _MOST_RELEASED)
            count = int(tag.rpartition(" ")[2])
            released += count
    return released


async def reconcile_batch_across_projects(connection: Connection, batch_id: UUID) -> int:
    """Count a batch's pending events again (some may have been deleted with their project) and set it right."""
    async with connection.transaction():
        row = await connection.fetchrow(_LOCK_BATCH, batch_id)
        if row is None:
            return 0
        pending: int = await connection.fetchval(_COUNT_PENDING, row["project_ids"], row["first_id"], row["last_id"])
        if pending == 0:
            await connection.execute(_DROP_BATCH, batch_id)
        else:
            await connection.execute(_SET_UNSETTLED, batch_id, pending)
    return pending


async def backlog_across_projects(connection: Connection, stuck_after_seconds: float) -> dict[str, int]:
    """Count what is unsettled, unpublished, stuck and waiting for a retry: batches and events."""
    row = await connection.fetchrow(_BACKLOG, stuck_after_seconds)
    assert row is not None
    return dict(row)


def record_of_row(row: Any) -> EventRecord:
    """Build the record that travels from a row of `events`."""
    return EventRecord(
        id=row["id"],
        project_id=row["project_id"],
        event_type=row["event_type"],
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        payload=msgspec.Raw(row["payload"]),
        user_id=row["user_id"],
        anonymous_id=row["anonymous_id"],
        session_id=row["session_id"],
        message_id=row["message_id"],
        attempt=row["attempt"],
    )
