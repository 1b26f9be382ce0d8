"""What answers one HTTP connection, and says as JSON what no middleware sees, such as a request that is not HTTP."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web import BaseRequest, HTTPExpectationFailed, RequestHandler, Response, StreamResponse

from boost_streams.errors import BoostError, Invalid, MalformedJson, TooLarge
from boost_streams.logs import REQUEST_ID, frames_of, get_logger
from web.middleware import REQUEST_ID_HEADER, described, id_of_request
from web.services import json_response

_log = get_logger(__name__)


class HttpConnection(RequestHandler):
    """aiohttp's handler of one connection, whose own errors have the shape of all others."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what could not be read, or failed outside the middlewares, and close the connection.

        What could not be read may hold an API key, so neither the log nor the answer repeats it.

        Raises:
            ConnectionError: The client is gone, or part of an answer was sent already.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        request_id = REQUEST_ID.get() or id_of_request(None)
        error = _error_of(exc)
        if error.code == "internal":
            frames = frames_of(exc) if exc is not None else None
            _log.error(
                "a request failed outside its view", action="request_failed", request_id=request_id, frames=frames
            )
        else:
            _log.info("not HTTP", action="not_http", request_id=request_id, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        answer = _answer(error, request_id)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: BaseRequest, resp: StreamResponse, start_time: float | None
    ) -> tuple[StreamResponse, bool]:
        """Send an answer; the one that aiohttp gives by itself, to an `Expect` it does not know, in our shape."""
        if isinstance(resp, HTTPExpectationFailed):
            resp = _answer(Invalid.field("Expect", "only 100-continue is understood"), id_of_request(None))
        return await super().finish_response(request, resp, start_time)


def _error_of(exc: BaseException | None) -> BoostError:
    if isinstance(exc, LineTooLong):
        return TooLarge(f"the request line or a header is longer than {exc.args[1]} bytes")
    if isinstance(exc, HttpProcessingError):
        return MalformedJson("the request cannot be read: it is not valid HTTP/1.1, or has too many headers")
    return BoostError("a request failed outside its view")


def _answer(error: BoostError, request_id: str) -> Response:
    body, headers = described(error, request_id)
    return json_response(body, status=error.status, headers={**headers, REQUEST_ID_HEADER: request_id})
