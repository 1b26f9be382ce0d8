"""`GET /events`, `GET /events/{id}`, `POST /events/{id}/retry`: a project's events as stored."""

from __future__ import annotations

import re
from typing import Any, get_args
from uuid import UUID

from aiohttp import web

from boost_streams.errors import FieldProblem, Invalid, NotFound
from db import events
from db.events import EventFilter, Status, StoredEvent
from web.auth import require
from web.services import json_response, services_of

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200
LONGEST_EVENT_TYPE = 200

_PARAMETERS = ("status", "eventType", "limit", "cursor")
_STATUSES: tuple[Status, ...] = get_args(Status)
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


async def get_event(request: web.Request) -> web.Response:
    """Answer one event of the caller's project.

    Raises:
        NotFound: The project has no such event, or the id in the path is none.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    event_id = event_id_of(request)
    async with services.database.for_project(identity.project_id) as connection:
        event = await events.get_event(connection, identity.project_id, event_id)
    return json_response(event_as_json(event))


async def list_events(request: web.Request) -> web.Response:
    """Answer a page of the caller's events, newest first: `{"items", "nextCursor"}`.

    Raises:
        Invalid: A query parameter is wrong or unknown; names each.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    wanted, limit, cursor = _read_query(request)
    async with services.database.for_project(identity.project_id) as connection:
        page = await events.list_events(
            connection,
            identity.project_id,
            limit=limit,
            now=services.now(),
            wanted=wanted,
            cursor=cursor,
        )
    items = [event_as_json(event) for event in page.items]
    return json_response({"items": items, "nextCursor": page.next_cursor})


async def retry_event(request: web.Request) -> web.Response:
    """Hand a failed event over again and answer 202 `{"id", "status": "pending", "attempt"}`.

    Raises:
        NotFound: The project has no such event, or the id in the path is none.
        Conflict: The event is pending or processed.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "ingest")
    event_id = event_id_of(request)
    async with services.database.for_project(identity.project_id) as connection:
        attempt = await events.retry_event(connection, identity.project_id, event_id)
    return json_response({"id": event_id, "status": "pending", "attempt": attempt}, status=202)


def event_as_json(event: StoredEvent) -> dict[str, Any]:
    """Shape an event as HTTP shows it; payload and error go in as PostgreSQL wrote them."""
    return {
        "id": event.id,
        "eventType": event.event_type,
        "status": event.status,
        "payload": event.payload,
        "userId": event.user_id,
        "anonymousId": event.anonymous_id,
        "sessionId": event.session_id,
        "messageId": event.message_id,
        "receivedAt": event.received_at,
        "occurredAt": event.occurred_at,
        "originalTimestamp": event.original_timestamp,
        "settledAt": event.settled_at,
        "attempt": event.attempt,
        "error": event.error,
    }


def event_id_of(request: web.Request) -> UUID:
    """Return the event id in the path.

    Raises:
        NotFound: It is no UUID.
    """
    text = request.match_info["id"]
    if not _UUID.fullmatch(text):
        raise NotFound("there is no such event in this project: the id is not a UUID")
    return UUID(text)


def _read_query(request: web.Request) -> tuple[EventFilter, int, str | None]:
    """Read filter, limit and cursor, naming every parameter that is wrong."""
    query = request.query
    problems = [
        FieldProblem(name, f"is not a parameter of this path; there are {', '.join(_PARAMETERS)}")
        for name in dict.fromkeys(query)
        if name not in _PARAMETERS
    ]
    problems += [FieldProblem(name, "must be given once") for name in _PARAMETERS if len(query.getall(name, [])) > 1]
    status = next((known for known in _STATUSES if known == query.get("status")), None)
    if "status" in query and status is None:
        problems.append(FieldProblem("status", f"must be one of {', '.join(_STATUSES)}"))
    event_type = query.get("eventType")
    if event_type is not None and not _can_be_event_type(event_type):
        problems.append(FieldProblem("eventType", f"must be 1 to {LONGEST_EVENT_TYPE} characters, not blank"))
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= LARGEST_LIMIT:
        problems.append(FieldProblem("limit", f"must be a whole number from 1 to {LARGEST_LIMIT}"))
    if problems:
        message = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        raise Invalid(message, problems=tuple(problems))
    return EventFilter(status, event_type), int(limit), query.get("cursor")


def _can_be_event_type(text: str) -> bool:
    return 0 < len(text) <= LONGEST_EVENT_TYPE and bool(text.strip()) and "\x00" not in text
