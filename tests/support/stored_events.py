"""Events put into the database the way that intake and settlement do it, without a broker."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from boost_streams.event_id import event_ids, new_batch_id
from db.burial import Burial, bury_across_projects
from db.intake import store_batch_across_projects
from db.new_events import NewEvent
from db.pool import Database
from db.settlement import Move, move_events_across_projects

WORKER = UUID(int=1)
ERROR = b'{"code": "invalid", "field": "url", "message": "is required"}'


async def store(
    database: Database, project_id: UUID, *types: str, payload: bytes = b"{}", batch_id: UUID | None = None
) -> list[UUID]:
    """Store events of these types, by user `u-1`, in one commit; return their ids."""
    batch_id = batch_id or new_batch_id()
    ids = event_ids(batch_id, len(types))
    new = [NewEvent(project_id, event_type, payload, user_id="u-1") for event_type in types]
    async with database.across_projects() as connection:
        await store_batch_across_projects(connection, batch_id, new, worker_id=WORKER, seq=1, stuck_after_seconds=300)
    return ids


async def settle(database: Database, project_id: UUID, ids: list[UUID], status: Any, attempt: int = 0) -> set[UUID]:
    """Move events that are pending at `attempt`, with the letters of those that failed; return those that moved."""
    error = ERROR if status == "failed" else None
    moves = [Move(project_id, event_id, attempt, status, error=error) for event_id in ids]
    async with database.across_projects() as connection, connection.transaction():
        moved = {event_id for event_id, _ in (await move_events_across_projects(connection, moves)).attempts}
        if status == "failed":
            rows = await connection.fetch("SELECT id, event_type FROM events WHERE id = ANY($1::uuid[])", list(moved))
            await bury_across_projects(connection, [_burial(project_id, *row, attempt + 1) for row in rows])
        return moved


def _burial(project_id: UUID, event_id: UUID, event_type: str, attempts: int) -> Burial:
    return Burial(project_id, event_id, event_type, "tracking", "invalid", "url", "is required", attempts, None)
