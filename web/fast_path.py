"""The fast path of taking events in: submitted where they were parsed, answered where they were committed, no task.

It takes a request only if it is whole, its key is known to this process and its event is good, or its batch can be
read: the most common case by far. Whatever else a request may be, it is left untouched to the view (`web/ingest.py`,
`web/ingest_batch.py`), which alone decides what is refused and how. Both answer alike, byte for byte; docs/adr/0020 has
the figures. A head that was read before is not read again (`web/known_heads.py`, docs/adr/0030).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
from boost_streams.errors import BoostError, without_frames
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_REFUSED
from db.new_events import NewEvent
from web.auth import Identity
from web.batch_answer import batch_answer
from web.content_codings import GZIP_MAGIC
from web.fast_connection import FastConnection
from web.formats.boost_batch import BatchTerms, Read, read_batch
from web.formats.boost_json import read_event
from web.formats.client_clock import ClientClock
from web.known_heads import KnownHead, KnownHeads, split
from web.middleware import REQUEST_ID_HEADER, described, id_of_request
from web.services import WebServices
from web.waiting import Accepted, Answer

#: Paths that are taken, and how many bytes a body may have: what surrounds a larger one is lost in it.
MOST_BYTES = {"/events": 16 * 1024, "/events/batch": 64 * 1024}
#: A request of more bytes than such a body and a long head have is not looked at before it is parsed.
_MOST_TO_SPLIT = 72 * 1024
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

#: Writes the status, the headers of its own and the body of an answer, given the answers to the events.
_Describe = Callable[[list[Answer], str], tuple[int, dict[str, str], bytes]]


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
        """Take a request, and call `answer` with the whole answer once its events are stored; or leave it (False)."""
        if (
            message.path not in MOST_BYTES
            or message.method != "POST"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or self._draining()
        ):
            return False
        body = _whole(payload)
        headers = message.headers
        if body is None or headers.get(_CONTENT_TYPE) not in _JSON_TYPES:
            return False
        if _CONTENT_ENCODING in headers or _EXPECT in headers:
            return False
        key = _key_of(headers)
        if not key or not key.isascii():
            return False
        return self._submit(KnownHead(message.path, hash_key(key)), body, headers.get(_REQUEST_ID), answer)

    def submit_known(self, data: bytes, answer: Callable[[bytes], None]) -> bool | None:
        """Take a request as it came, if its head was read before; None says that it was not, or not as a whole."""
        parts = split(data) if len(data) <= _MOST_TO_SPLIT else None
        known = self._heads.find(parts.head) if parts else None
        if parts is None or known is None:
            return None
        return not self._draining() and self._submit(known, parts.body, None, answer)

    def remember(self, data: bytes, message: RawRequestMessage) -> None:
        """Remember the head of a request that was taken, `data` as a whole; one with an id is not sent again."""
        parts = split(data) if len(data) <= _MOST_TO_SPLIT else None
        key = _key_of(message.headers)
        if parts is not None and key and _REQUEST_ID not in message.headers:
            self._heads.remember(parts.head, KnownHead(message.path, hash_key(key)))

    @property
    def closing(self) -> bool:
        """Tell whether the worker stops, so that connections end with their next answer."""
        return self._draining()

    def _submit(self, head: KnownHead, body: bytes, request_id: str | None, send: Callable[[bytes], None]) -> bool:
        most = min(MOST_BYTES[head.path], self._services.settings.max_body_bytes)
        if len(body) > most or body.startswith(GZIP_MAGIC):
            return False
        identity = self._services.authenticator.known(head.key_hash)
        if identity is None or "ingest" not in identity.scopes:
            return False
        read = self._read_one if head.path == "/events" else self._read_batch
        try:
            new, describe = read(body, identity)
            if not new:
                return False
            done = functools.partial(self._answer, send, id_of_request(request_id), describe)
            self._services.intake.submit_then(new, done)
        except Exception:  # whatever it is, the view meets it as well, and says so
            return False
        return True

    def _read_one(self, body: bytes, identity: Identity) -> tuple[Sequence[NewEvent], _Describe]:
        clock = ClientClock(self._services.now())
        event = read_event(body, identity.project_id, clock, self._services.settings.max_event_bytes)
        return (event,), _describe_one

    def _read_batch(self, body: bytes, identity: Identity) -> tuple[Sequence[NewEvent], _Describe]:
        services, settings = self._services, self._services.settings
        terms = BatchTerms(identity.project_id, services.now(), settings.max_event_bytes, settings.max_batch_events)
        lease = services.intake.budget.lease()
        try:
            lease.grow(len(body))  # where memory is short it is refused before it is read
            read = read_batch(body, terms)
        finally:
            lease.release()
        return [one for one in read if isinstance(one, NewEvent)], functools.partial(_describe_batch, read)

    def _answer(
        self, send: Callable[[bytes], None], request_id: str, describe: _Describe, answers: list[Answer]
    ) -> None:
        """Write the answer to one request. Raises nothing: others wait for theirs behind it."""
        try:
            send(self._written(describe, answers, request_id))
        except Exception as error:
            _log.exception("an answer could not be sent", action="fast_path", error=type(error).__name__)

    def _written(self, describe: _Describe, answers: list[Answer], request_id: str) -> bytes:
        try:
            status, headers, body = describe(answers, request_id)
        except Exception as error:
            if not isinstance(error, BoostError):
                _log.exception("an answer could not be written", action="fast_path", error=type(error).__name__)
                error = BoostError("an answer could not be written")
            EVENTS_REFUSED.labels(code=error.code).inc()
            about, headers = described(without_frames(error), request_id)
            status, body = error.status, _encoder.encode(about)
        return _written(status, headers, request_id, body, closing=self.closing)


def _whole(payload: StreamReader) -> bytes | None:
    """Return a body that is there as a whole and in one piece, without taking it; None if it is not."""
    if type(payload) is not StreamReader or not payload.is_eof() or payload.exception() is not None:
        return None
    pieces = payload._buffer
    return pieces[0] if len(pieces) == 1 else None


def _key_of(headers: CIMultiDictProxy[str]) -> str | None:
    """Return the key, where it is written as usual."""
    given = headers.get(_API_KEY)
    if given is not None:
        return given
    given = headers.get(_AUTHORIZATION)
    return given[7:] if given is not None and given.startswith("Bearer ") else None


def _describe_one(answers: list[Answer], _: str) -> tuple[int, dict[str, str], bytes]:
    (answer,) = answers
    if not isinstance(answer, Accepted):
        raise answer
    duplicate = ',"duplicate":true' if answer.duplicate else ""
    return HTTPStatus.ACCEPTED, {}, f'{{"id":"{answer.id}","status":"pending"{duplicate}}}'.encode()


def _describe_batch(read: Sequence[Read], answers: list[Answer], request_id: str) -> tuple[int, dict[str, str], bytes]:
    status, body = batch_answer(read, answers, request_id)
    return status, {}, _encoder.encode(body)


def _written(status: int, headers: dict[str, str], request_id: str, body: bytes, *, closing: bool) -> bytes:
    """Write an answer as aiohttp would."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""
    last = "Connection: close\r\n" if closing else ""
    head = (
        f"HTTP/1.1 {_STATUS_LINES[status]}\r\nContent-Type: application/json; charset=utf-8\r\n{more}"
        f"{REQUEST_ID_HEADER}: {request_id}\r\nContent-Length: {len(body)}\r\n"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n{last}\r\n"
    )
    return head.encode() + body


_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
