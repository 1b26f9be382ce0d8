"""`GET /events/{id}/journey`: where an event is, and how it came there."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aiohttp import web

from boost_streams.settings import Settings
from boost_streams.topics import RAW_EVENTS, full_name
from db import events
from db.events import StoredEvent
from db.journey import Journey, journey_across_projects, retry_of_event
from db.pool import Database
from web.auth import require
from web.queries import event_id_of
from web.services import json_response, services_of


async def get_journey(request: web.Request) -> web.Response:
    """Answer the journey of one event of the caller's project.

    Raises:
        NotFound: The project has no such event, or the id in the path is none.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    event_id = event_id_of(request)
    event, journey = await read_journey(services.database, services.settings, identity.project_id, event_id)
    return json_response(journey_as_json(event, journey))


async def read_journey(
    database: Database, settings: Settings, project_id: UUID, event_id: UUID
) -> tuple[StoredEvent, Journey]:
    """Read an event as its project, and only if it is there what became of it.

    Raises:
        NotFound: The project has no such event.
    """
    async with database.for_project(project_id) as connection:
        event = await events.get_event(connection, project_id, event_id)
        retry = await retry_of_event(connection, project_id, event_id)
    async with database.across_projects() as connection:
        return event, await journey_across_projects(connection, event, retry, full_name(settings, RAW_EVENTS))


def journey_as_json(event: StoredEvent, journey: Journey) -> dict[str, Any]:
    """Shape a journey as HTTP shows it."""
    return {
        "id": event.id,
        "eventType": event.event_type,
        "status": event.status,
        "attempt": event.attempt,
        "steps": [
            {
                "step": step.step,
                "at": step.at,
                "worker": step.worker_id,
                "by": step.by,
                "attempt": step.attempt,
                "detail": step.detail,
            }
            for step in journey.steps
        ],
        "waitingFor": journey.waiting_for,
        "dueAt": journey.due_at,
    }
