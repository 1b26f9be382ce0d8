"""`POST /events/batch`: many events in, an answer for each, once those that were taken are stored."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web

from boost_streams.errors import BoostError, UnsupportedMediaType
from boost_streams.metrics import EVENTS_REFUSED
from db.new_events import NewEvent
from web.auth import require
from web.body import read_bytes
from web.formats.boost_batch import BatchTerms, Read, read_batch, read_lines
from web.ingest import JSON_TYPES
from web.middleware import REQUEST_ID, public_message
from web.services import json_response, services_of
from web.waiting import Accepted, Answer

LINES_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class _Taken(msgspec.Struct, gc=False, omit_defaults=True):
    index: int
    id: str
    duplicate: bool = False


class _Refused(msgspec.Struct):
    index: int
    code: str
    message: str
    field: str | None


async def accept_batch(request: web.Request) -> web.Response:
    """Store events as pending and answer for each: 202 when at least one was taken, else 422.

    Raises:
        BoostError: The body as a whole cannot be read, as `web.formats.boost_batch` says; or nothing could be
            stored now, as `web.intake.Intake.submit` says.
    """
    try:
        read = await _read(request)
        new = [event for event in read if isinstance(event, NewEvent)]
        final = await services_of(request).intake.submit(new)
        if len(new) < len(read):
            answers = iter(final)
            final = [next(answers) if isinstance(event, NewEvent) else event for event in read]
        if not any(isinstance(answer, Accepted) for answer in final):
            _raise_what_may_pass(final)
    except BoostError as error:
        EVENTS_REFUSED.labels(code=error.code).inc()
        raise
    return _answer(request, final)


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


def _raise_what_may_pass(answers: Sequence[Answer]) -> None:
    """Raise, of a request of which nothing was taken, the error that is not the events' own fault."""
    for answer in answers:
        if isinstance(answer, BoostError) and answer.status not in (
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ):
            raise answer


def _answer(request: web.Request, answers: Sequence[Answer]) -> web.Response:
    results: list[_Taken | _Refused] = []
    accepted = 0
    for index, answer in enumerate(answers):
        if isinstance(answer, Accepted):
            results.append(_Taken(index, answer.id, answer.duplicate))
            accepted += 1
            continue
        field = answer.problems[0].field if answer.problems else None
        results.append(_Refused(index, answer.code, public_message(answer), field))
        EVENTS_REFUSED.labels(code=answer.code).inc()
    body: dict[str, object] = {"accepted": accepted, "rejected": len(answers) - accepted, "results": results}
    if accepted:
        return json_response(body, status=202)
    about = {"code": "invalid", "message": "no event was taken", "requestId": request.get(REQUEST_ID, "")}
    return json_response(about | body, status=422)
