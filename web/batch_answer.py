"""What `POST /events/batch` answers: for each event of the request, in order, what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from boost_streams.errors import BoostError
from boost_streams.metrics import EVENTS_REFUSED
from db.new_events import NewEvent
from web.formats.boost_batch import Read
from web.middleware import public_message
from web.waiting import Accepted, Answer


class _Taken(msgspec.Struct, gc=False, omit_defaults=True):
    index: int
    id: str
    duplicate: bool = False


class _Refused(msgspec.Struct):
    index: int
    code: str
    message: str
    field: str | None


def batch_answer(
    read: Sequence[Read], answers: Sequence[Answer], request_id: str
) -> tuple[HTTPStatus, dict[str, object]]:
    """Return the status and the body: 202 when at least one event was taken, else 422.

    Args:
        read: What the request held.
        answers: What became of those of them that were submitted.
        request_id: The id of the request.

    Raises:
        BoostError: Nothing was taken, and not for what the events are: they may be sent again.
    """
    if len(answers) < len(read):
        submitted = iter(answers)
        answers = [next(submitted) if isinstance(event, NewEvent) else event for event in read]
    if not any(isinstance(answer, Accepted) for answer in answers):
        _raise_what_may_pass(answers)
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
        return HTTPStatus.ACCEPTED, body
    about = {"code": "invalid", "message": "no event was taken", "requestId": request_id}
    return HTTPStatus.UNPROCESSABLE_ENTITY, about | body


def _raise_what_may_pass(answers: Sequence[Answer]) -> None:
    """Raise, of a request of which nothing was taken, the error that is not the events' own fault."""
    for answer in answers:
        if isinstance(answer, BoostError) and answer.status not in (
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ):
            raise answer
