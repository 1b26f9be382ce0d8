"""What a newer release wrote and this one cannot read: its batches and retries are marked to be published again."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from db.batches import (
    Claim,
    ClaimedBatch,
    claim_locked_across_projects,
    with_their_events_across_projects,
)
from db.pool import Connection

#: Up to so many publishes of a batch, whoever sent it back publishes it again itself, at once.
MOST_AT_ONCE = 4

# Only what was published and is not settled: what is unpublished already keeps its time.
_POSTPONE_BATCHES = """
WITH mine AS (
    SELECT id FROM event_batches WHERE id = ANY($1::uuid[]) AND last_published_at IS NOT NULL ORDER BY id FOR UPDATE)
UPDATE event_batches b SET
    last_published_at = NULL, due_at = now() + make_interval(secs => least($2 * power(2, least(publish_count, 20)), $3))
FROM mine m WHERE b.id = m.id
"""
_POSTPONE_RETRIES = """
WITH mine AS (
    SELECT r.project_id, r.event_id FROM event_retries r
    JOIN unnest($1::uuid[], $2::uuid[]) AS t (project_id, event_id)
        ON r.project_id = t.project_id AND r.event_id = t.event_id
    WHERE r.last_published_at IS NOT NULL ORDER BY r.project_id, r.event_id FOR UPDATE OF r)
UPDATE event_retries r SET
    last_published_at = NULL, due_at = now() + make_interval(secs => least($3 * power(2, least(publish_count, 20)), $4))
FROM mine m WHERE r.project_id = m.project_id AND r.event_id = m.event_id
"""
_RETURNED = """
SELECT id FROM event_batches WHERE id = ANY($1::uuid[]) AND last_published_at IS NULL AND publish_count <= $2
ORDER BY id FOR UPDATE SKIP LOCKED
"""


async def postpone_across_projects(
    connection: Connection,
    batch_ids: Sequence[UUID],
    retries: Sequence[tuple[UUID, UUID]],
    first_pause: float,
    longest_pause: float,
) -> None:
    """Have batches and retries (project, event) published again later, whether or not the broker has them.

    The pause (seconds) doubles with every publish, from the first to the longest. What is settled meanwhile is gone.
    """
    async with connection.transaction():
        await connection.execute(_POSTPONE_BATCHES, list(batch_ids), first_pause, longest_pause)
        if retries:
            projects = [project_id for project_id, _ in retries]
            await connection.execute(
                _POSTPONE_RETRIES, projects, [event_id for _, event_id in retries], first_pause, longest_pause
            )


async def claim_returned_batches_across_projects(
    connection: Connection, claim: Claim, batch_ids: Sequence[UUID]
) -> list[ClaimedBatch]:
    """Claim those of these batches that are to be published and did not go round too often, before they are due."""
    async with connection.transaction():
        rows = await connection.fetch(_RETURNED, list(batch_ids), MOST_AT_ONCE)
        claimed = await claim_locked_across_projects(connection, claim, [row["id"] for row in rows])
    return await with_their_events_across_projects(connection, claimed)
