"""The fast path of `POST /events`: submitted where it was parsed, answered where it was committed, without a task.

It takes a request only if it is whole, its key is known to this process and its event is good: the most common case by
far. Whatever else a request may be, it is left untouched to the view (`web/ingest.py`), which alone decides what is
refused and how. Both answer alike, byte for byte; docs/adr/0020 has the figures. A head that was read before is not
read again (`web/known_heads.py`, docs/adr/0030).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import RequestHandler, Server
from multidict import CIMultiDictProxy, istr

from boost_streams.api_key import hash_key
from boost_streams.errors import BoostError
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_REFUSED
from web.connection import HttpConnection
from web.content_codings import GZIP_MAGIC
from web.formats.boost_json import read_event
from web.formats.client_clock import ClientClock
from web.known_heads import KnownHeads, bytes_of, split
from web.middleware import REQUEST_ID_HEADER, described, id_of_request
from web.services import WebServices
from web.waiting import Accepted, Answer

PATH = "/events"
#: A body of more bytes goes to the view: aiohttp would have stopped reading the connection while nobody takes it.
MOST_BYTES = 16 * 1024
#: A request of more bytes than such a body and a long head have is not looked at before it is parsed.
_MOST_TO_SPLIT = MOST_BYTES + 8 * 1024
#: Content types that need no parsing to be known as JSON.
_JSON_TYPES = frozenset(
    {None, "application/json", "application/json; charset=utf-8", "application/json;charset=utf-8", "text/plain"}
)
_API_KEY = istr("x-api-key")
_AUTHORIZATION = istr("Authorization")
_CONTENT_TYPE = istr("Content-Type")
_CONTENT_ENCODING = istr("Content-Encoding")
_EXPECT = istr("Expect")
_REQUEST_ID = istr(REQUEST_ID_HEADER)

_encoder = msgspec.json.Encoder()
_log = get_logger(__name__)


class FastPath:
    """Decides which requests it takes, and submits them. One per worker."""

    def __init__(self, services: WebServices, draining: Callable[[], bool]) -> None:
        self._services = services
        self._draining = draining
        self._heads = KnownHeads()

    def connection(self, server: Server, **options: Any) -> RequestHandler:
        """Make what answers one connection."""
        return FastConnection(self, server, **options)

    def submit(self, message: RawRequestMessage, payload: StreamReader, answer: Callable[[bytes], None]) -> bool:
        """Take a request, and call `answer` with the whole answer once its event is stored; or leave it (False)."""
        if (
            message.path != PATH
            or message.method != "POST"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or self._draining()
        ):
            return False
        body = _whole(payload)
        headers = message.headers
        if (
            body is None
            or body.startswith(GZIP_MAGIC)
            or headers.get(_CONTENT_TYPE) not in _JSON_TYPES
            or _CONTENT_ENCODING in headers
            or _EXPECT in headers
        ):
            return False
        key = _key_of(headers)
        if not key or not key.isascii():
            return False
        return self._submit(body, hash_key(key), headers.get(_REQUEST_ID), answer)

    def submit_known(self, data: bytes, answer: Callable[[bytes], None]) -> bool | None:
        """Take a request as it came, if its head was read before; None says that it was not, or not as a whole."""
        parts = split(data) if len(data) <= _MOST_TO_SPLIT else None
        key_hash = self._heads.key_hash(parts.head) if parts else None
        if parts is None or key_hash is None:
            return None
        if self._draining() or len(parts.body) > MOST_BYTES or parts.body.startswith(GZIP_MAGIC):
            return False
        return self._submit(parts.body, key_hash, None, answer)

    def remember(self, data: bytes, message: RawRequestMessage) -> None:
        """Remember the head of a request that was taken, `data` as a whole; one with an id is not sent again."""
        parts = split(data) if len(data) <= _MOST_TO_SPLIT else None
        key = _key_of(message.headers)
        if parts is not None and key and _REQUEST_ID not in message.headers:
            self._heads.remember(parts.head, hash_key(key))

    def _submit(self, body: bytes, key_hash: bytes, request_id: str | None, answer: Callable[[bytes], None]) -> bool:
        identity = self._services.authenticator.known(key_hash)
        if identity is None or "ingest" not in identity.scopes:
            return False
        done = functools.partial(self._answer, answer, id_of_request(request_id))
        services = self._services
        try:
            clock = ClientClock(services.now())
            event = read_event(body, identity.project_id, clock, services.settings.max_event_bytes)
            services.intake.submit_then((event,), done)
        except BoostError:
            return False
        return True

    @property
    def closing(self) -> bool:
        """Tell whether the worker stops, so that connections end with their next answer."""
        return self._draining()

    def _answer(self, send: Callable[[bytes], None], request_id: str, answers: list[Answer]) -> None:
        """Write the answer to one request. Raises nothing: others wait for theirs behind it."""
        try:
            send(_response(answers[0], request_id, closing=self.closing))
        except Exception as error:
            _log.exception("an answer could not be sent", action="fast_path", error=type(error).__name__)


def _whole(payload: StreamReader) -> bytes | None:
    """Return a body that is there as a whole and in one piece, without taking it; None if it is not."""
    if type(payload) is not StreamReader or not payload.is_eof() or payload.exception() is not None:
        return None
    pieces = payload._buffer
    return pieces[0] if len(pieces) == 1 and len(pieces[0]) <= MOST_BYTES else None


def _key_of(headers: CIMultiDictProxy[str]) -> str | None:
    """Return the key, where it is written as usual."""
    given = headers.get(_API_KEY)
    if given is not None:
        return given
    given = headers.get(_AUTHORIZATION)
    return given[7:] if given is not None and given.startswith("Bearer ") else None


def _response(answer: Answer, request_id: str, *, closing: bool) -> bytes:
    last = "Connection: close\r\n" if closing else ""
    if isinstance(answer, Accepted):
        duplicate = ',"duplicate":true' if answer.duplicate else ""
        body = f'{{"id":"{answer.id}","status":"pending"{duplicate}}}'
        return _written("202 Accepted", "", request_id, body, last)
    EVENTS_REFUSED.labels(code=answer.code).inc()
    described_body, headers = described(answer, request_id)
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    status = HTTPStatus(answer.status)
    encoded = _encoder.encode(described_body).decode()
    return _written(f"{status.value} {status.phrase}", more, request_id, encoded, last)


def _written(status: str, more_headers: str, request_id: str, body: str, last_headers: str) -> bytes:
    """Write an answer as aiohttp would."""
    encoded = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n{more_headers}"
        f"{REQUEST_ID_HEADER}: {request_id}\r\nContent-Length: {len(encoded)}\r\n"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n{last_headers}\r\n"
    )
    return head.encode() + encoded


class FastConnection(HttpConnection):
    """The handler of one connection that asks the fast path first.

    aiohttp's own loop for this connection (`start`) sleeps on its `_waiter` while nothing is to be done. It goes on
    sleeping while the fast path has a request; requests that come meanwhile wait in its queue.
    """

    __slots__ = ("_fast_path", "_left", "_under_way")

    def __init__(self, fast_path: FastPath, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._fast_path = fast_path
        self._under_way = False
        #: How many bytes of the last request are still to come: with 0 the next that comes begins one. None: only the
        #: parser knows, from here on.
        self._left: int | None = 0

    def data_received(self, data: bytes) -> None:
        """Hand a request to the fast path, where its head is unknown parse it first, or wake aiohttp's loop for it."""
        sleeping = self._waiter
        if sleeping is None or sleeping.done() or self._payload_parser is not None:
            self._parse(data)
            return
        taken = None
        begins = self._left == 0
        if begins and self._is_free() and not self._messages:
            taken = self._fast_path.submit_known(data, self._answered)
            if taken:
                self._request_count += 1
                self._begin()
                return
        self._waiter = None  # so that nobody is woken yet
        try:
            self._parse(data)
        finally:
            self._waiter = sleeping
        if not self._messages or self._under_way:
            return
        message = self._take() if taken is None else None
        if message is None:
            sleeping.set_result(None)
        elif begins and self._left == 0:
            self._fast_path.remember(data, message)

    def _is_free(self) -> bool:
        return not (self._under_way or self._paused or self._close or self._force_close)

    def _take(self) -> RawRequestMessage | None:
        """Hand the only request that waits to the fast path, and return it; None if it is not taken."""
        if len(self._messages) != 1 or not self._is_free():
            return None
        message, payload = self._messages[0]
        if not isinstance(message, RawRequestMessage):
            return None
        if not self._fast_path.submit(message, payload, self._answered):
            return None
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        self._begin()
        return message

    def _begin(self) -> None:
        self._under_way = self._request_in_progress = True
        if self._manager is not None:
            self._manager.requests_count += 1

    def _parse(self, data: bytes) -> None:
        """Let aiohttp parse what came, and keep account of where a request ends."""
        before = len(self._messages)
        left, self._left = self._left, None
        super().data_received(data)
        if left == 0 and len(self._messages) == before + 1:
            message, _ = self._messages[-1]
            left = bytes_of(data, message) if isinstance(message, RawRequestMessage) else None
        elif left == 0 and data:
            left = None
        if left is not None and left >= len(data):
            self._left = left - len(data)

    def _answered(self, answer: bytes) -> None:
        self._under_way = self._request_in_progress = False
        transport, sleeping = self.transport, self._waiter
        if transport is not None and not transport.is_closing():
            transport.write(answer)
            if self._close or self._fast_path.closing:
                transport.close()
            else:
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if transport is None or transport.is_closing():
            return  # what came behind is not taken any more: it would have no answer
        if self._messages and sleeping is not None and not sleeping.done():
            sleeping.set_result(None)

    def _process_keepalive(self) -> None:
        """Close an idle connection; one that waits for its answer is not idle."""
        if self._under_way:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()
