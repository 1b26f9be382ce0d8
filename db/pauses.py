"""Topics that no worker handles until somebody resumes them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from uuid import UUID

from db.pool import Connection

_PAUSE = """
INSERT INTO consumer_pauses (topic, handler, reason, worker_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (topic) DO NOTHING RETURNING topic
"""
_RESUME = "DELETE FROM consumer_pauses WHERE topic = $1 RETURNING topic"
_PAUSES = "SELECT topic, handler, reason, worker_id, created_at FROM consumer_pauses ORDER BY topic"
_HOW_MANY_PROJECTS = "SELECT count(*) FROM (SELECT FROM projects LIMIT $1) AS first_of_them"


@dataclass(frozen=True, slots=True)
class Pause:
    """One topic that is paused: since when and why; `handler` when a worker paused it because of that handler."""

    topic: str
    handler: str | None
    reason: str
    worker_id: UUID | None
    created_at: dt.datetime


async def pause_across_projects(
    connection: Connection, topic: str, reason: str, *, handler: str | None = None, worker_id: UUID | None = None
) -> bool:
    """Pause a topic for every worker; False when it is paused already."""
    return await connection.fetchval(_PAUSE, topic, handler, reason, worker_id) is not None


async def resume_across_projects(connection: Connection, topic: str) -> bool:
    """Let every worker handle a topic again; False when it was not paused."""
    return await connection.fetchval(_RESUME, topic) is not None


async def pauses_across_projects(connection: Connection) -> list[Pause]:
    """List the topics that are paused, by name."""
    return [Pause(**dict(row)) for row in await connection.fetch(_PAUSES)]


async def several_projects_across_projects(connection: Connection) -> bool:
    """Tell whether the installation has more than one project."""
    return bool(await connection.fetchval(_HOW_MANY_PROJECTS, 2) > 1)
