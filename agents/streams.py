"""Reads a Faust stream in batches of what is already there, and acknowledges nothing by itself.

Faust acknowledges what fails, and its `noack_take` waits for a timer. Here a reader moves messages into a bounded
inbox, the loop takes at least one and at most so many, and acknowledges them in their order when they are dealt
with (FAUST.md, "Acks and loss").
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agents.progress import ConsumerProgress
from boost_streams.logs import get_logger
from boost_streams.records import Malformed, Newer

#: The exit code of a worker that left rather than let Faust acknowledge work that is not done.
EXIT_UNACKNOWLEDGED = 75

#: How long the rest of a fetch is waited for (seconds).
GATHER_SECONDS = 0.002
#: How far apart lists are taken while the worker catches up (seconds): what waited for long waits a little longer, and
#: is done for less.
CATCHING_UP_PACE_SECONDS = 0.2
#: How many messages may wait to be taken.
MOST_WAITING = 256

_log = get_logger(__name__)
_Made = TypeVar("_Made")


class Taken:
    """One message taken from a topic: its value, where it stood, and its acknowledgement."""

    __slots__ = ("_event", "_stream", "offset", "partition", "size", "topic", "value")

    def __init__(self, stream: Any, event: Any) -> None:
        self._stream = stream
        self._event = event
        self.value: Any = event.value
        self.topic: str = event.message.topic
        self.partition: int = event.message.partition
        self.offset: int = event.message.offset
        self.size: int = len(event.message.value or b"")

    async def acknowledge(self) -> None:
        """Let Faust commit the offset."""
        await self._stream.ack(self._event)


async def ready_batches(
    stream: Any,
    progress: ConsumerProgress,
    *,
    most: int,
    weight: Callable[[Any], int],
    clock: Callable[[], float] = time.monotonic,
    apart: Callable[[], float] = lambda: 0.0,
    rest_after: Callable[[float], float] = lambda _: 0.0,
) -> AsyncIterator[list[Taken]]:
    """Yield lists of messages: at least one, then whatever is there, up to a total weight of about `most`.

    A fetch hands messages over one by one, so the rest of it is waited for. `apart` says how long after one list the
    next is taken (seconds), unless it is full before: what each list costs is then shared by more events
    (docs/adr/0012). `rest_after` says for how long nothing is taken after a list that took so long (both in seconds);
    while it says so, lists are taken further apart (docs/adr/0025).
    """
    stream.enable_acks = False
    inbox = _Inbox(weight, most)
    reader = asyncio.create_task(_read(stream, inbox, progress))
    due = clock()
    try:
        while True:
            await inbox.wait_for_one()
            if not inbox.enough.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(GATHER_SECONDS, due - clock())):
                        await inbox.enough.wait()
            yielded = clock()
            yield inbox.take()
            due = yielded + apart()
            if rest := rest_after(clock() - yielded):
                due = yielded + CATCHING_UP_PACE_SECONDS
                await asyncio.sleep(rest)
    finally:
        reader.cancel()


class _Inbox:
    """What was read and is not taken yet; `enough` is set while that is a full list, or all that it may hold."""

    def __init__(self, weight: Callable[[Any], int], most: int) -> None:
        self._weight = weight
        self._most = most
        self._messages: deque[Taken] = deque()
        self._total = 0
        self._error: BaseException | None = None
        self._any = asyncio.Event()
        self._room = asyncio.Event()
        self.enough = asyncio.Event()
        self._look()

    async def put(self, message: Taken) -> None:
        """Add a message, when there is room."""
        await self._room.wait()
        self._messages.append(message)
        self._total += self._weight(message.value)
        self._look()

    def fail(self, error: BaseException) -> None:
        """Let whoever takes next have this error, behind the messages that came before it."""
        self._error = error
        self._look()

    async def wait_for_one(self) -> None:
        """Wait until there is something to take."""
        await self._any.wait()

    def take(self) -> list[Taken]:
        """Return messages until they weigh as much as a full list, or none is left; at least one."""
        if not self._messages and self._error is not None:
            raise self._error
        batch: list[Taken] = []
        total = 0
        while self._messages and total < self._most:
            batch.append(self._messages.popleft())
            total += self._weight(batch[-1].value)
        self._total -= total
        self._look()
        return batch

    def _look(self) -> None:
        failed = self._error is not None
        full = len(self._messages) >= MOST_WAITING
        _set(self._any, bool(self._messages) or failed)
        _set(self._room, not full)
        _set(self.enough, self._total >= self._most or full or failed)


def _set(event: asyncio.Event, on: bool) -> None:
    if on:
        event.set()
    else:
        event.clear()


async def _read(stream: Any, inbox: _Inbox, progress: ConsumerProgress) -> None:
    try:
        async for event in stream.events():
            if progress.closed:
                await asyncio.Event().wait()  # until cancelled: this message is not acknowledged and comes again
            taken = Taken(stream, event)
            published_at = None if isinstance(taken.value, Malformed | Newer) else taken.value.published_at
            progress.took(taken.topic, taken.partition, taken.offset, published_at)
            await inbox.put(taken)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        inbox.fail(error)


async def acknowledge(taken: list[Taken], progress: ConsumerProgress) -> None:
    """Acknowledge messages in the order in which they were taken."""
    for message in taken:
        await message.acknowledge()
        progress.acknowledged(message.topic, message.partition, message.offset)


async def give_back(taken: Sequence[Taken], progress: ConsumerProgress) -> None:
    """Let go of messages that are to be read again: Faust counts them as done, what is committed to Kafka does not.

    While messages are in hand Faust waits for them before it hands partitions over.
    """
    for message in taken:
        await message.acknowledge()
        progress.gave_back(message.topic, message.partition, message.offset)


async def in_two_stages(
    batches: AsyncIterator[list[Taken]],
    first: Callable[[list[Taken]], Awaitable[_Made]],
    second: Callable[[list[Taken], _Made], Awaitable[None]],
) -> None:
    """Pass batches through two stages in their order: the first works on a batch while the second has the one before.

    At most two batches are in hand. The second stage acknowledges; whatever either raises comes out of here.
    """
    async with asyncio.TaskGroup() as group:
        before: asyncio.Task[None] | None = None
        async for taken in batches:
            made = await first(taken)
            if before is not None:
                await before
            before = group.create_task(_as_task(second(taken, made)))
            del taken, made  # else this batch would be kept until the next one is handled


async def _as_task(work: Awaitable[None]) -> None:
    await work


async def run_agent(name: str, body: Awaitable[None]) -> None:
    """Run an agent's body, which must never end: if it does, the process leaves without acknowledging.

    A supervisor starts it again and the messages come again; letting Faust restart the agent would acknowledge them.
    """
    try:
        await body
    except asyncio.CancelledError:
        raise
    except BaseException:
        _log.exception("an agent failed; leaving without acknowledging", action="agent_exit", handler=name)
        leave_without_acknowledging()


def leave_without_acknowledging() -> None:
    """End the process at once: what it has in hand comes again, to another worker or to this one started again."""
    os._exit(EXIT_UNACKNOWLEDGED)
