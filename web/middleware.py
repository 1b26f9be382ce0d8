"""The one place where errors become HTTP: our own, aiohttp's, and what nobody foresaw; and the request's id."""

from __future__ import annotations

import math
import random
import re
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestPayloadError

from boost_streams.errors import BoostError, MalformedJson, without_frames
from boost_streams.logs import REQUEST_ID as LOGGED_REQUEST_ID
from boost_streams.logs import frames_of, get_logger
from db.deadline import begin_request
from web.services import SERVICES, json_response

#: Carries the id of a request, from the client if it sent a sane one, and back to it.
REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID: web.RequestKey[str] = web.RequestKey("boost_request_id", str)

#: Makes ids without a system call for each.
_chance = random.Random()  # noqa: S311 - an id tells requests apart, it is no secret

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_INTERNAL = "something went wrong inside Boost; the log tells more under this requestId"
#: What our codes are for the statuses that aiohttp raises itself, with what is said of them.
_OF_STATUS = {
    HTTPStatus.BAD_REQUEST: ("malformed_json", "the request cannot be read"),
    HTTPStatus.UNAUTHORIZED: ("unauthorized", "send an API key"),
    HTTPStatus.FORBIDDEN: ("forbidden", "this is not allowed"),
    HTTPStatus.NOT_FOUND: ("not_found", "there is no such path"),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "this path does not take this method"),
    HTTPStatus.CONFLICT: ("conflict", "the state does not allow this"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("too_large", "the body is larger than is allowed"),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("unsupported_media_type", "this content type is not read here"),
    HTTPStatus.TOO_MANY_REQUESTS: ("rate_limited", "too many requests"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("unavailable", "come again soon"),
}

_log = get_logger(__name__)


def id_of_request(given: str | None) -> str:
    """Return the id of a request: the one that its header gives, if it is a sane one, else a new one."""
    return given if given is not None and _SANE_ID.fullmatch(given) else f"{_chance.getrandbits(96):024x}"


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request an id and turn whatever its handler raises into an answer.

    Raises:
        ConnectionError: The client is gone, or has part of an answer already: the connection is closed.
    """
    request_id = id_of_request(request.headers.get(REQUEST_ID_HEADER))
    request[REQUEST_ID] = request_id
    LOGGED_REQUEST_ID.set(request_id)
    begin_request()
    try:
        response = await handler(request)
        if response.status == HTTPStatus.METHOD_NOT_ALLOWED and "Allow" not in response.headers:
            response = _method_not_allowed(request)  # the web framework's own answer to HEAD
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            error.headers[REQUEST_ID_HEADER] = request_id
            raise
        response = _answer_http_exception(request, error)
        without_frames(error)
    except Exception as error:
        response = _answer_exception(request, error)
        without_frames(error)
    if not response.prepared:
        response.headers[REQUEST_ID_HEADER] = request_id
        services = request.app.get(SERVICES)
        if services is not None and services.closing:
            response.force_close()  # and says so: `Connection: close`
    return response


#: The middlewares of the application, outermost first.
MIDDLEWARES = (answer_errors,)


def public_message(error: BoostError) -> str:
    """Return what a client may read of an error: of a defect of ours, nothing."""
    return error.message if error.code != "internal" else _INTERNAL


def error_response(request: web.Request, error: BoostError) -> web.Response:
    """Write an error of ours as an answer: JSON, and when to come again where that can help."""
    body, headers = described(error, request.get(REQUEST_ID, ""))
    return json_response(body, status=error.status, headers=headers)


def described(error: BoostError, request_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers of the answer that an error becomes."""
    body: dict[str, Any] = {"code": error.code, "message": public_message(error), "requestId": request_id}
    if error.problems:
        body["errors"] = [{"field": p.field, "message": p.message} for p in error.problems]
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        if error.retry_after < 1:
            headers["retry-after-ms"] = str(max(1, round(error.retry_after * 1000)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return body, headers


def _answer_exception(request: web.Request, error: Exception) -> web.StreamResponse:
    if isinstance(error, OSError) and (request.transport is None or request.transport.is_closing()):
        raise ConnectionResetError("the client is gone") from error
    if isinstance(error, RequestPayloadError | HttpProcessingError):
        error = MalformedJson("the body cannot be read: its encoding is broken")
    if isinstance(error, BoostError) and error.code != "internal":
        _refuse_second_answer(request, error)
        return error_response(request, error)
    _log.error(
        "a request failed",
        action="request_failed",
        method=request.method,
        path=_path_of(request),
        error=type(error).__name__,
        frames=frames_of(error),
    )
    _refuse_second_answer(request, error)
    return error_response(request, BoostError(_INTERNAL))


def _path_of(request: web.Request) -> str:
    """Return the path as it is routed: what stands in its places may be an id, or a key."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(no such path)"


def _refuse_second_answer(request: web.Request, error: Exception) -> None:
    if request.writer is not None and request.writer.output_size > 0:
        raise ConnectionResetError("part of an answer was sent already") from error


def _answer_http_exception(request: web.Request, error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return _method_not_allowed(request)
    fallback = ("internal", _INTERNAL) if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
    code, message = _OF_STATUS.get(HTTPStatus(error.status)) or fallback or ("invalid", error.reason)
    body = {"code": code, "message": message, "requestId": request[REQUEST_ID]}
    kept = {name: value for name, value in error.headers.items() if name in ("Retry-After", "WWW-Authenticate")}
    return json_response(body, status=error.status, headers=kept)


def _method_not_allowed(request: web.Request) -> web.Response:
    code, message = _OF_STATUS[HTTPStatus.METHOD_NOT_ALLOWED]
    body = {"code": code, "message": message, "requestId": request[REQUEST_ID]}
    headers = {"Allow": ", ".join(sorted(_allowed_methods(request)))}
    return json_response(body, status=HTTPStatus.METHOD_NOT_ALLOWED, headers=headers)


def _allowed_methods(request: web.Request) -> set[str]:
    """List the methods of a path. The framework adds HEAD to every path; it works where GET does."""
    refusal = request.match_info.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        methods = set(refusal.allowed_methods)
    else:
        resource = request.match_info.route.resource
        methods = {route.method for route in resource or ()}
    return methods if "GET" in methods else methods - {"HEAD"}
