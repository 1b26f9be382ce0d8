"""Requests on sockets of their own, so that a test sees what becomes of a connection."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from dataclasses import dataclass, field
from typing import Any


def request_bytes(key: str, event: dict[str, Any] | None = None, *, path: str = "/events") -> bytes:
    """Write `POST /events` for one event, with a messageId of its own unless the event has one."""
    body = json.dumps({"eventType": "x", "payload": {}, "messageId": uuid.uuid4().hex, **(event or {})}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(frozen=True)
class Answer:
    """One answer: its status, whether the server ends the connection with it, and its body."""

    status: int
    last: bool
    retry_after: str | None = None
    body: dict[str, Any] = field(default_factory=dict)


class ConnectionEnded(Exception):
    """The server ended the connection, in order, before it answered."""


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer.

    Raises:
        ConnectionEnded: The stream ended first.
        ConnectionResetError: The connection was reset.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError as error:
        raise ConnectionEnded from error
    return Answer(
        int(lines[0].split(" ")[1]),
        headers.get("connection") == "close",
        headers.get("retry-after"),
        json.loads(body or b"{}"),
    )


@dataclass
class Tally:
    """What became of requests: statuses, connections refused, and those that broke without an answer."""

    statuses: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    slowest: float = 0.0
    #: When each answer came (the event loop's time), its status, and how long it took (seconds).
    answers: list[tuple[float, int, float]] = field(default_factory=list)
    #: 503s that did not say when to come again.
    unexplained: int = 0

    def since(self, start: float, status: int) -> list[float]:
        """Return how long answers of a status took that came after a time."""
        return [took for at, given, took in self.answers if at >= start and given == status]

    def first_after(self, start: float, status: int) -> float:
        """Return how long after a time the first answer of a status came (seconds); infinity when none did."""
        return min((at - start for at, given, _ in self.answers if at >= start and given == status), default=math.inf)


class Sender:
    """Sends events one after the other to whichever worker takes them, on a connection that it keeps or on new ones."""

    def __init__(self, ports: list[int], key: str, tally: Tally, *, keeps: bool, pause: float = 0.0) -> None:
        self._ports = ports
        self._key = key
        self._tally = tally
        self._keeps = keeps
        self._pause = pause
        self._turn = 0
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, until: asyncio.Event) -> None:
        """Send until told to stop."""
        while not until.is_set():
            await self.send_one()
            if self._pause:
                await asyncio.sleep(self._pause)
        self._close()

    async def send_one(self) -> None:
        """Send one event, once; what breaks is counted and not sent again."""
        loop = asyncio.get_running_loop()
        if self._open is not None and self._open[0].at_eof():
            self._close()  # as every client does with a kept connection that the server has ended
        if self._open is None:
            self._turn += 1
            port = self._ports[self._turn % len(self._ports)]
            try:
                async with asyncio.timeout(3):
                    self._open = await asyncio.open_connection("127.0.0.1", port)
            except (ConnectionRefusedError, TimeoutError):
                self._tally.refused += 1
                await asyncio.sleep(0.02)
                return
            except OSError as error:
                self._tally.broken.append(f"connect: {error!r}")
                return
        started = loop.time()
        reader, writer = self._open
        try:
            async with asyncio.timeout(15):
                writer.write(request_bytes(self._key))
                await writer.drain()
                answer = await read_answer(reader)
        except (OSError, ConnectionEnded, TimeoutError) as error:
            self._tally.broken.append(f"{'kept' if self._keeps else 'new'}: {error!r}")
            self._close()
            return
        took = loop.time() - started
        self._tally.slowest = max(self._tally.slowest, took)
        self._tally.answers.append((loop.time(), answer.status, took))
        self._tally.unexplained += answer.status == 503 and answer.retry_after is None
        self._tally.statuses[answer.status] = self._tally.statuses.get(answer.status, 0) + 1
        if answer.status == 202:
            self._tally.accepted.append(answer.body["id"])
        if answer.last or not self._keeps:
            self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None
