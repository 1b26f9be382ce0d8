"""`POST /events`: one event in, its id out, once it is stored."""

from __future__ import annotations

from aiohttp import web

from boost_streams.errors import BoostError, UnsupportedMediaType
from boost_streams.metrics import EVENTS_REFUSED
from web.auth import require
from web.body import read_bytes
from web.formats.boost_json import read_event
from web.formats.client_clock import ClientClock
from web.services import json_response, services_of
from web.waiting import Accepted

#: Content types under which clients send JSON.
JSON_TYPES = ("", "application/octet-stream", "application/json", "text/plain", "application/x-www-form-urlencoded")


async def accept_event(request: web.Request) -> web.Response:
    """Store one event as pending and answer 202 with its id.

    Raises:
        BoostError: As `web.formats.boost_json.read_event` and `web.intake.Intake.submit` say.
    """
    services = services_of(request)
    try:
        identity = await services.authenticator.project_of(request)
        require(identity, "ingest")
        content_type = request.content_type
        if content_type not in JSON_TYPES and not content_type.endswith("+json"):
            raise UnsupportedMediaType(f"send application/json, not {content_type}")
        lease = services.intake.budget.lease()
        try:
            body = await read_bytes(request, services.settings.max_body_bytes, lease)
            event = read_event(
                body, identity.project_id, ClientClock(services.now()), services.settings.max_event_bytes
            )
        finally:
            lease.release()
        (answer,) = await services.intake.submit([event])
        if not isinstance(answer, Accepted):
            raise answer
    except BoostError as error:
        EVENTS_REFUSED.labels(code=error.code).inc()
        raise
    reply: dict[str, object] = {"id": answer.id, "status": "pending"}
    if answer.duplicate:
        reply["duplicate"] = True
    return json_response(reply, status=202)
