"""The handler of one connection that asks the fast path first (`web/fast_path.py`, docs/adr/0020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import Server

from web.connection import HttpConnection
from web.known_heads import bytes_of


class Taker(Protocol):
    """What takes requests: the fast path."""

    @property
    def closing(self) -> bool:
        """Tell whether the worker stops, so that connections end with their next answer."""

    def submit(self, message: RawRequestMessage, payload: StreamReader, answer: Callable[[bytes], None]) -> bool:
        """Take a request, and call `answer` with the whole answer once it is stored; or leave it (False)."""

    def submit_known(self, data: bytes, answer: Callable[[bytes], None]) -> bool | None:
        """Take a request as it came, if its head was read before; None says that it was not, or not as a whole."""

    def remember(self, data: bytes, message: RawRequestMessage) -> None:
        """Remember the head of a request that was taken."""


class FastConnection(HttpConnection):
    """The handler of one connection that asks the fast path first.

    aiohttp's own loop for this connection (`start`) sleeps on its `_waiter` while nothing is to be done. It goes on
    sleeping while the fast path has a request; requests that come meanwhile wait in its queue.
    """

    __slots__ = ("_fast_path", "_left", "_under_way", "_unsent")

    def __init__(self, fast_path: Taker, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._fast_path = fast_path
        self._under_way = False
        #: The answer is written, but more of it waits for the client than a connection may hold.
        self._unsent = False
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
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(answer)
            if self._paused:  # the client does not read: until it does the request is under way, as with a view
                self._unsent = True
                return
        self._end()

    def resume_writing(self) -> None:
        """Go on with what waits once the client has read most of an answer."""
        super().resume_writing()
        self._end_unsent()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget an answer that the client did not read."""
        super().connection_lost(exc)
        self._end_unsent()

    def _end_unsent(self) -> None:
        if self._unsent:
            self._unsent = False
            self._end()

    def _end(self) -> None:
        self._under_way = self._request_in_progress = False
        transport, sleeping = self.transport, self._waiter
        if transport is not None and not transport.is_closing():
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
