"""Sends events to a Boost server over HTTP, many at a time, again where that can help.

Every event carries a `messageId`, so that sending one again, in this run or the next, stores it once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import msgspec

#: What a server answers when the same request may succeed later.
RETRY_STATUSES = frozenset({429, 502, 503, 504})
#: Answers after which no other event can succeed either.
HOPELESS_STATUSES = frozenset({401, 403})
#: Back-off without a Retry-After (seconds): doubled from the first up to the longest, with jitter.
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
#: How long one request may take (seconds).
REQUEST_SECONDS = 30.0

_line_decoder: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


class GiveUp(Exception):
    """No further event can be sent: the key is refused, or the server stayed away for too long."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a file. `body` is what is sent; `error` says why there is none."""

    number: int
    size: int
    body: bytes = b""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one event: its id, or the error (`code: message`, with the fields at fault)."""

    outcome: Literal["accepted", "duplicate", "failed"]
    id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to go on with one event (seconds), and the clocks, sleep and chance to do it with."""

    give_up_after: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    now: Callable[[], dt.datetime] = field(default=lambda: dt.datetime.now(dt.UTC))


def read_lines(lines: Iterable[bytes]) -> Iterator[Line]:
    """Turn the lines of a JSON-lines file into events; blank lines are passed over.

    A line without a `messageId` gets one that is a hash of the line and of how many equal lines stand above
    it: the same file always gives the same, and two equal lines are two events.
    """
    seen: Counter[bytes] = Counter()
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            continue
        digest = hashlib.blake2b(line, digest_size=16).digest()
        occurrence = seen[digest]
        seen[digest] += 1
        yield _read_line(number, len(raw), line, f"line-{digest.hex()}-{occurrence}")


def _read_line(number: int, size: int, line: bytes, message_id: str) -> Line:
    try:
        event = _line_decoder.decode(line.decode())
    except msgspec.ValidationError:
        return Line(number, size, error="not a JSON object")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Line(number, size, error=f"not JSON: {error}")
    if bytes(event.get("messageId", b"null")) == b"null":
        event["messageId"] = msgspec.Raw(msgspec.json.encode(message_id))
    return Line(number, size, body=msgspec.json.encode(event))


class Sender:
    """Posts events to one server with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, pace: Pace | None = None) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/events"
        self._headers = {"x-api-key": key, "content-type": "application/json"}
        self._pace = pace or Pace()

    async def send(self, body: bytes) -> Sent:
        """Send one event, again for as long as the server says "later" or does not answer.

        Raises:
            GiveUp: The key is refused, or the server stayed away for longer than the pace allows.
        """
        started, tries = self._pace.clock(), 0
        while True:
            pause, answer = await self._try(body)
            if isinstance(answer, Sent):
                return answer
            if pause is None:
                pause = min(FIRST_PAUSE_SECONDS * 2**tries, LONGEST_PAUSE_SECONDS)
            pause *= 1 + 0.25 * self._pace.chance()
            if self._pace.clock() + pause - started > self._pace.give_up_after:
                raise GiveUp(f"{answer}; run it again later, nothing is stored twice")
            await self._pace.sleep(pause)
            tries += 1

    async def _try(self, body: bytes) -> tuple[float | None, Sent | str]:
        """Send once. Returns what became of it, or why to try again and after how many seconds."""
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            return None, f"{self._url} does not answer ({str(error) or type(error).__name__})"
        if response.status in RETRY_STATUSES:
            pause = retry_after(response.headers, self._pace.now())
            return pause, f"{self._url} answers {response.status}"
        return None, _outcome(response.status, answer)


def retry_after(headers: Mapping[str, str], now: dt.datetime) -> float | None:
    """Read how long a server asks to wait (seconds): RFC 9110, section 10.2.3, a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or dt.UTC) - now).total_seconds())


def _outcome(status: int, answer: bytes) -> Sent:
    try:
        body: Any = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = {}
    body = body if isinstance(body, dict) else {}
    if status == 202 and "id" in body:
        return Sent("duplicate" if body.get("duplicate") else "accepted", id=str(body["id"]))
    error = f"{body.get('code', status)}: {body.get('message', 'not an answer of Boost')}"
    if status in HOPELESS_STATUSES:
        raise GiveUp(error)
    return Sent("failed", error=error)


async def send_lines(
    sender: Sender, lines: Iterable[Line], concurrency: int
) -> AsyncGenerator[tuple[Line, Sent], None]:
    """Send the events of a file, `concurrency` at a time, and yield what became of each as it comes.

    No more lines are read than are on their way.

    Raises:
        GiveUp: As `Sender.send`; what was on its way then may or may not be stored.
    """
    under_way: dict[asyncio.Task[Sent], Line] = {}
    try:
        for line in lines:
            if line.error is not None:
                yield line, Sent("failed", error=line.error)
                continue
            under_way[asyncio.create_task(sender.send(line.body))] = line
            if len(under_way) >= concurrency:
                async for done in _first_done(under_way):
                    yield done
        while under_way:
            async for done in _first_done(under_way):
                yield done
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _first_done(under_way: dict[asyncio.Task[Sent], Line]) -> AsyncIterator[tuple[Line, Sent]]:
    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    for task in sorted(done, key=lambda one: under_way[one].number):
        line = under_way.pop(task)
        yield line, task.result()
