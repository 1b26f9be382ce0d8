"""What answers one HTTP connection, and says as JSON what no middleware sees: a request that is not HTTP."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web import BaseRequest, RequestHandler, StreamResponse

from boost_streams.errors import BoostError, MalformedJson, TooLarge
from boost_streams.logs import frames_of, get_logger
from web.middleware import REQUEST_ID_HEADER, described, id_of_request
from web.services import json_response

_log = get_logger(__name__)


class Connection(RequestHandler):
    """aiohttp's handler of one connection, whose own errors have the shape of all others."""

    __slots__ = ()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what never reached a view, and close the connection: where the next request begins is not known.

        What could not be read may hold an API key, so neither the log nor the answer repeats it.

        Raises:
            ConnectionError: Part of an answer was sent already.
        """
        request_id = id_of_request(None)
        error = _error_of(exc)
        if error.code == "internal":
            _log.error(
                "a request failed before its view",
                action="request_failed",
                request_id=request_id,
                status=status,
                error=type(exc).__name__,
                frames=frames_of(exc) if exc is not None else None,
            )
        else:
            _log.info("not HTTP", action="not_http", request_id=request_id, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        body, headers = described(error, request_id)
        answer = json_response(body, status=error.status, headers={**headers, REQUEST_ID_HEADER: request_id})
        answer.force_close()
        return answer


def _error_of(exc: BaseException | None) -> BoostError:
    if isinstance(exc, LineTooLong):
        return TooLarge(f"the request line or a header is longer than {exc.args[1]} bytes")
    if isinstance(exc, HttpProcessingError):
        return MalformedJson("the request cannot be read: it is not valid HTTP/1.1")
    return BoostError("a request failed before its view")
