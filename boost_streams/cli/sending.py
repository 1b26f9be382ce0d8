"""Sends requests with events to a Boost server, again where that can help.

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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
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


class StayedAway(GiveUp):
    """The server stayed away for too long; what was sent last may be stored all the same."""


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


class Patience:
    """Waits between the tries of one request, for as long as a pace allows."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._started = pace.clock()
        self._tries = 0

    async def wait(self, seconds: float | None, why: str) -> None:
        """Wait before the next try: as long as the server asked for, else longer each time.

        Raises:
            GiveUp: The pace allows no further try.
        """
        if seconds is None:
            seconds = min(FIRST_PAUSE_SECONDS * 2**self._tries, LONGEST_PAUSE_SECONDS)
        seconds *= 1 + 0.25 * self._pace.chance()
        if self._pace.clock() + seconds - self._started > self._pace.give_up_after:
            raise StayedAway(f"{why}; run it again later")
        await self._pace.sleep(seconds)
        self._tries += 1


class Sender:
    """Posts events to one server with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, pace: Pace | None = None) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._key = key
        self.pace = pace or Pace()

    async def send(self, body: bytes) -> Sent:
        """Send one event, again for as long as the server says "later" or does not answer.

        Raises:
            GiveUp: The key is refused, or the server stayed away for longer than the pace allows.
        """
        status, answer = await self.post("/events", body, {"content-type": "application/json"})
        if status == 202 and "id" in answer:
            return taken(answer)
        return Sent("failed", error=error_of(status, answer))

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], patience: Patience | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Post a body until the server says what became of it; return the status and the JSON that it answered.

        Raises:
            GiveUp: The key is refused, or the server stayed away for longer than the pace allows.
        """
        patience = patience or Patience(self.pace)
        while True:
            pause, answer = await self._try(self._url + path, body, headers)
            if not isinstance(answer, str):
                return answer
            await patience.wait(pause, answer)

    async def _try(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[float | None, tuple[int, dict[str, Any]] | str]:
        """Post once. Returns what was answered, or why to try again and after how many seconds."""
        headers = {"x-api-key": self._key, **headers}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            return None, f"{url} does not answer ({str(error) or type(error).__name__})"
        if response.status in RETRY_STATUSES:
            return retry_after(response.headers, self.pace.now()), f"{url} answers {response.status}"
        read = _read_answer(answer)
        if response.status in HOPELESS_STATUSES:
            raise GiveUp(error_of(response.status, read))
        return None, (response.status, read)


def retry_after(headers: Mapping[str, str], now: dt.datetime) -> float | None:
    """Read how long a server asks to wait (seconds): `retry-after-ms`, else RFC 9110, section 10.2.3."""
    milliseconds = headers.get("retry-after-ms", "").strip()
    if milliseconds.isascii() and milliseconds.isdigit():
        return int(milliseconds) / 1000
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or dt.UTC) - now).total_seconds())


def taken(answer: Mapping[str, Any]) -> Sent:
    """Read the answer to an event that was taken."""
    return Sent("duplicate" if answer.get("duplicate") else "accepted", id=str(answer["id"]))


def error_of(status: int, answer: Mapping[str, Any]) -> str:
    """Read why a request, or an event of it, was refused: `code: message`."""
    return f"{answer.get('code', status)}: {answer.get('message', 'not an answer of Boost')}"


def _read_answer(answer: bytes) -> dict[str, Any]:
    try:
        body: Any = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}
