"""`POST /events/batch`: many events in, an answer for each, once those that were taken are stored."""

from __future__ import annotations

from aiohttp import web

from boost_streams.errors import BoostError, UnsupportedMediaType
from boost_streams.metrics import EVENTS_REFUSED
from db.new_events import NewEvent
from web.auth import require
from web.batch_answer import batch_answer
from web.body import read_bytes
from web.formats.boost_batch import BatchTerms, Read, read_batch, read_lines
from web.ingest import JSON_TYPES
from web.middleware import REQUEST_ID
from web.services import json_response, services_of

LINES_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")


async def accept_batch(request: web.Request) -> web.Response:
    """Store events as pending and answer for each: 202 when at least one was taken, else 422.

    Raises:
        BoostError: The body as a whole cannot be read, as `web.formats.boost_batch` says; or nothing could be
            stored now, as `web.intake.Intake.submit` says.
    """
    try:
        read = await _read(request)
        new = [event for event in read if isinstance(event, NewEvent)]
        answers = await services_of(request).intake.submit(new)
        status, body = batch_answer(read, answers, request.get(REQUEST_ID, ""))
    except BoostError as error:
        EVENTS_REFUSED.labels(code=error.code).inc()
        raise
    return json_response(body, status=status)


async def _read(request: web.Request) -> list[Read]:
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "ingest")
    content_type = request.content_type
    lines = content_type in LINES_TYPES
    if not lines and content_type not in JSON_TYPES and not content_type.endswith("+json"):
        raise UnsupportedMediaType(f"send application/json or application/x-ndjson, not {content_type}")
    settings = services.settings
    terms = BatchTerms(identity.project_id, services.now(), settings.max_event_bytes, settings.max_batch_events)
    lease = services.intake.budget.lease()
    try:
        body = await read_bytes(request, settings.max_body_bytes, lease)
        return read_lines(body, terms) if lines else read_batch(body, terms)
    finally:
        lease.release()
