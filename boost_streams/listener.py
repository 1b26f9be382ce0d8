"""Ends a web server's listening without resetting anybody.

A connection whose handshake is done waits in the listening socket's queue until the server accepts it. Closing the
socket resets all that wait there, and under load there are some at any moment. So first no new handshake is begun, then
what waits is accepted, and only then the socket is closed: who comes later is refused, and has sent nothing yet.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import sys
import time
from collections.abc import Iterable
from typing import Any, Protocol

#: A handshake that has begun is given so long to end (seconds): two round trips of a slow client.
HANDSHAKE_SECONDS = 0.25
#: How long what waits in the queue may take to be accepted (seconds).
ACCEPT_SECONDS = 2.0
#: How often queue and connections are looked at while a worker stops (seconds).
_LOOK_SECONDS = 0.01

# linux/filter.h, asm-generic/socket.h: a classic BPF program that drops segments with SYN and without ACK, which begin
# a handshake, and lets through all others. It sees a segment from its TCP header on; the flags are its 14th byte.
_SO_ATTACH_FILTER = 26
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
_SYN, _SYN_OR_ACK = 0x02, 0x12
_DROP_NEW_HANDSHAKES = (
    (_LOAD_BYTE, 0, 0, 13),
    (_AND, 0, 0, _SYN_OR_ACK),
    (_JUMP_IF_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
)
# linux/tcp.h: of a listening socket, tcpi_unacked is how many connections wait to be accepted.
_TCP_INFO_BYTES, _TCPI_UNACKED_AT = 104, 24


class Connection(Protocol):
    """One connection of aiohttp's server: `web_protocol.RequestHandler`, as far as it is used here."""

    _close: bool
    _request_in_progress: bool
    _messages: Any
    transport: Any


def begin_no_handshakes(listening: socket.socket) -> bool:
    """Drop what would begin a new connection; tell whether that can be done here (it can on Linux)."""
    if sys.platform != "linux":
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW_HANDSHAKES))
    try:
        listening.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HL", len(_DROP_NEW_HANDSHAKES), ctypes.addressof(program)),
        )
    except OSError:
        return False
    return True


def waiting_to_be_accepted(listening: socket.socket) -> int:
    """Return how many connections wait in the queue of a listening socket; 0 where that cannot be told."""
    if sys.platform != "linux":
        return 0
    try:
        info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return 0
    return int(struct.unpack_from("I", info, _TCPI_UNACKED_AT)[0])


async def accept_what_waits(sockets: Iterable[Any]) -> None:
    """Let no connection begin any more and wait until the server has accepted those that did.

    Args:
        sockets: The listening sockets, as the event loop's server shows them; it goes on accepting meanwhile.
    """
    listening = [socket.socket(fileno=os.dup(one.fileno())) for one in sockets]
    try:
        held_off = [begin_no_handshakes(one) for one in listening]
        # Where they go on beginning, the best moment is the first one at which nothing waits.
        handshakes_end = time.monotonic() + (HANDSHAKE_SECONDS if all(held_off) else 0.0)
        deadline = time.monotonic() + ACCEPT_SECONDS
        while time.monotonic() < deadline:
            if not any(waiting_to_be_accepted(one) for one in listening) and time.monotonic() >= handshakes_end:
                return
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        for one in listening:
            one.close()


async def end_connections(server: Any, *, grace: float, linger: float) -> None:
    """Let clients end their connections, then end those that are idle.

    The server says `Connection: close` with every answer by now. For `grace` seconds a client may send another request
    on a connection that it kept. Then what is idle is closed for writing only: a client that sends at that very moment
    reads the end of the stream, not a reset. What it sent is not looked at: it could not be answered.

    Args:
        server: aiohttp's server (`web.Server`).
        grace: Seconds in which requests on open connections are still answered.
        linger: Seconds in which clients may close what was closed for writing.
    """
    await _wait_for_none(server, grace)
    for connection in server.connections:
        if is_idle(connection):
            connection._close = True  # what comes now is dropped
            if connection.transport is not None and connection.transport.can_write_eof():
                connection.transport.write_eof()
    await _wait_for_none(server, linger)


def is_idle(connection: Connection) -> bool:
    """Tell whether no request is under way on a connection."""
    return not connection._request_in_progress and not connection._messages


async def _wait_for_none(server: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while server.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - polled only while stopping
        await asyncio.sleep(_LOOK_SECONDS)
