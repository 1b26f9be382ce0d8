"""The suite's client: sends as an SDK does through everything that happens, and keeps book of what it was promised.

It follows `Retry-After`, goes to the next worker, and sends again what it got no answer for: with the same messageId
where the event has one, without any where it has none. Some events travel alone, some in batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults import poison
from tests.support.oracle import Promise
from tests.support.projects import TestProject
from tests.support.traffic import events

#: Beyond so many requests under way the rest of the traffic waits.
_UNDER_WAY = 64
_REQUEST_SECONDS = 12.0
_CONNECT_SECONDS = 2.0
_WITH_MESSAGE_ID = 0.7
_BATCH = 20
#: How many requests are batches: with these, about a third of the events travel so.
_BATCHES = 0.02
_REFUSED_SHARE = 0.005
_LATER = frozenset({"overloaded", "unavailable"})


@dataclass(slots=True)
class _Parcel:
    """What travels in one request."""

    project: TestProject
    bodies: list[dict[str, Any]]
    promises: list[Promise]
    refusable: bool = False


@dataclass(slots=True)
class Figures:
    """What the client saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    #: Connections that ended within an exchange, that were refused, and requests without an answer in time.
    resets: int = 0
    refused: int = 0
    timeouts: int = 0
    #: From the first try to the 202, and what a 503 took to come (seconds).
    slowest_accepted: float = 0.0
    slowest_503: float = 0.0
    #: Answers that no server may give, in words.
    wrong: list[str] = field(default_factory=list)


class TrafficClient:
    """Sends events of several projects to any of several workers at a steady rate until it is stopped."""

    def __init__(self, urls: Sequence[str], projects: Sequence[TestProject], chance: random.Random) -> None:
        self._urls = urls
        self._projects = projects
        self._chance = chance
        self._turn = 0
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS, connect=_CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=0),
        )
        self._limit = asyncio.Semaphore(_UNDER_WAY)
        self._sends: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.promises: list[Promise] = []
        self.figures = Figures()

    @property
    def accepted(self) -> int:
        """How many events got a 202."""
        return sum(1 for promise in self.promises if promise.ids)

    async def run(self, rate: float) -> None:
        """Send about `rate` events a second until `stop`."""
        parcels = self._parcels(self._chance.randrange(1 << 30))
        started, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            await self._limit.acquire()
            parcel = next(parcels)
            self._spawn(parcel)
            sent += len(parcel.bodies)
            pause = started + sent / rate - time.monotonic()
            # What waited through a stall is not sent in one blow when it is over.
            started = max(started, time.monotonic() - sent / rate - 1.0)
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def burst(self, count: int) -> None:
        """Send `count` events as fast as they are taken."""
        parcels = self._parcels(self._chance.randrange(1 << 30), batches=1.0)
        while count > 0:
            await self._limit.acquire()
            parcel = next(parcels)
            self._spawn(parcel)
            count -= len(parcel.bodies)

    async def send(self, event: dict[str, Any]) -> None:
        """Send one event beside the rest."""
        await self._limit.acquire()
        self._spawn(self._parcel(self._chance.choice(self._projects), [event]))

    def stop_sending(self) -> None:
        """Send nothing new; what is under way is sent until it is accepted."""
        self._stopping.set()

    async def all_accepted(self, deadline: float = 60) -> None:
        """Wait until everything that was sent is accepted.

        Raises:
            TimeoutError: Something was not, within `deadline` seconds.
        """
        async with asyncio.timeout(deadline):
            while self._sends:
                await asyncio.wait(self._sends)

    async def close(self) -> None:
        """Give up what is under way and close the connections."""
        for task in self._sends:
            task.cancel()
        await asyncio.gather(*self._sends, return_exceptions=True)
        await self._session.close()

    def _spawn(self, parcel: _Parcel) -> None:
        self.promises += parcel.promises
        task = asyncio.create_task(self._send(parcel))
        self._sends.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        self._limit.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.figures.wrong.append(f"{type(error).__name__}: {error}")

    def _parcels(self, seed: int, batches: float = _BATCHES) -> Iterator[_Parcel]:
        usual = events(seed, 1 << 40)
        chance = self._chance
        while True:
            project = chance.choice(self._projects)
            if chance.random() < _REFUSED_SHARE:
                yield self._parcel(project, [poison.refused_of(chance)], refusable=True)
                continue
            count = _BATCH if chance.random() < batches else 1
            drawn = [poison.event_of(chance) if chance.random() < poison.SHARE else next(usual) for _ in range(count)]
            yield self._parcel(project, drawn)

    def _parcel(self, project: TestProject, drawn: list[dict[str, Any]], *, refusable: bool = False) -> _Parcel:
        bodies, promises = [], []
        for event in drawn:
            name = uuid.uuid4().hex
            message_id = uuid.uuid4().hex if self._chance.random() < _WITH_MESSAGE_ID else None
            body = {"sessionId": name, **event}
            if message_id is not None:
                body["messageId"] = message_id
            bodies.append(body)
            promises.append(Promise(name, message_id))
        return _Parcel(project, bodies, promises, refusable)

    async def _send(self, parcel: _Parcel) -> None:
        started, pause = time.monotonic(), 0.05
        while parcel.bodies:
            asked = time.monotonic()
            try:
                status, answer, retry_after = await self._post(parcel)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                self._note(error, parcel)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
                continue
            self.figures.statuses[status] += 1
            if status == 503:
                self._unavailable(parcel, time.monotonic() - asked, retry_after)
                await asyncio.sleep(retry_after or pause)
            else:
                self._answered(parcel, status, answer)
        self.figures.slowest_accepted = max(self.figures.slowest_accepted, time.monotonic() - started)

    async def _post(self, parcel: _Parcel) -> tuple[int, Any, float | None]:
        self._turn += 1
        url = self._urls[self._turn % len(self._urls)]
        many = len(parcel.promises) > 1
        path, body = ("/events/batch", {"events": parcel.bodies}) if many else ("/events", parcel.bodies[0])
        headers = {"x-api-key": parcel.project.key}
        async with self._session.post(f"{url}{path}", json=body, headers=headers) as response:
            answer = await response.json()
            retry_after = response.headers.get("Retry-After")
            return response.status, answer, float(retry_after) if retry_after else None

    def _note(self, error: Exception, parcel: _Parcel) -> None:
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            self.figures.refused += 1  # it never got there
            return
        if isinstance(error, TimeoutError):
            self.figures.timeouts += 1
        else:
            self.figures.resets += 1
        for promise in parcel.promises:
            promise.unanswered += 1

    def _unavailable(self, parcel: _Parcel, seconds: float, retry_after: float | None) -> None:
        self.figures.slowest_503 = max(self.figures.slowest_503, seconds)
        if retry_after is None:
            self.figures.wrong.append("503 without Retry-After")
        for promise in parcel.promises:
            promise.unanswered += 1  # the commit may have gone through before PostgreSQL went away

    def _answered(self, parcel: _Parcel, status: int, answer: Any) -> None:
        """Take what was accepted off the parcel; what is to be sent again stays."""
        results = answer.get("results") if len(parcel.promises) > 1 else [answer]
        if status not in (202, 400, 413, 422) or not isinstance(results, list) or len(results) != len(parcel.bodies):
            self.figures.wrong.append(f"{status}: {str(answer)[:200]}")
            parcel.bodies, parcel.promises = [], []
            return
        left = []
        for body, promise, result in zip(parcel.bodies, parcel.promises, results, strict=True):
            if "id" in result:
                promise.ids.add(result["id"])
                if parcel.refusable:
                    self.figures.wrong.append(f"taken though it must be refused: {body['eventType']}")
            elif result.get("code") in _LATER:
                promise.unanswered += 1
                left.append((body, promise))
            else:
                promise.refused = True
                if not parcel.refusable:
                    self.figures.wrong.append(f"{status} for {body['eventType']}: {result}")
        parcel.bodies = [body for body, _ in left]
        parcel.promises = [promise for _, promise in left]
