"""Sends the lines of a file in batches, a few requests at a time, and tells what became of every line."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from boost_streams.cli.sending import GiveUp, Line, Patience, Sender, Sent, error_of, taken

#: A request holds no more than this (bytes), unless one line is larger: far below any server's MAX_BODY_BYTES.
MOST_BYTES = 1024 * 1024
#: Smaller bodies are not worth compressing (bytes).
LEAST_TO_COMPRESS = 1024
#: Low, because it is the network that is to be spared, not the server.
_GZIP_LEVEL = 3

#: What is said of an event that may be taken when it is sent again, and of one whose key was refused meanwhile.
_LATER = frozenset({"overloaded", "unavailable"})
_HOPELESS = frozenset({"unauthorized", "forbidden"})


@dataclass(frozen=True, slots=True)
class Batches:
    """How many events one request may hold, and whether its body is compressed."""

    most_events: int
    compress: bool = False

    def of(self, lines: Iterable[Line]) -> Iterator[list[Line]]:
        """Cut lines into batches; a line that cannot be sent is a batch of its own."""
        batch: list[Line] = []
        size = 0
        for line in lines:
            if line.error is not None:
                yield [line]
                continue
            if batch and (len(batch) == self.most_events or size + len(line.body) > MOST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line.body)
        if batch:
            yield batch

    async def send(self, sender: Sender, lines: Sequence[Line]) -> list[Sent]:
        """Send one batch; what the server could not take just now is sent again.

        Raises:
            GiveUp: As `Sender.post`.
        """
        sent: dict[int, Sent] = {}
        left = list(range(len(lines)))
        patience = Patience(sender.pace)
        while left:
            results = await self._post(sender, [lines[position] for position in left], patience)
            again = []
            for position, result in zip(left, results, strict=True):
                if isinstance(result, Sent):
                    sent[position] = result
                else:
                    again.append(position)
                    why = error_of(503, result)
            left = again
            if left:
                await patience.wait(None, why)
        return [sent[position] for position in range(len(lines))]

    async def _post(self, sender: Sender, lines: Sequence[Line], patience: Patience) -> list[Sent | dict[str, Any]]:
        """Post lines once; return for each what became of it, or why to try again."""
        body = b"\n".join(line.body for line in lines)
        headers = {"content-type": "application/x-ndjson"}
        if self.compress and len(body) >= LEAST_TO_COMPRESS:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers["content-encoding"] = "gzip"
        status, answer = await sender.post("/events/batch", body, headers, patience)
        results = answer.get("results")
        if status in (202, 422) and isinstance(results, list) and len(results) == len(lines):
            return [_result(status, result) for result in results]
        if status == 413 and len(lines) > 1:  # this server takes less in one request
            middle = len(lines) // 2
            return [
                *await self._post(sender, lines[:middle], patience),
                *await self._post(sender, lines[middle:], patience),
            ]
        return [Sent("failed", error=error_of(status, answer))] * len(lines)


def _result(status: int, result: dict[str, Any]) -> Sent | dict[str, Any]:
    if "id" in result:
        return taken(result)
    if result.get("code") in _LATER:
        return result
    if result.get("code") in _HOPELESS:
        raise GiveUp(error_of(status, result))
    return Sent("failed", error=error_of(status, result))


async def send_lines(
    sender: Sender, lines: Iterable[Line], batches: Batches, concurrency: int
) -> AsyncGenerator[tuple[Line, Sent], None]:
    """Send the events of a file, `concurrency` batches at a time, and yield what became of each as it comes.

    No more lines are read than are on their way.

    Raises:
        GiveUp: As `Sender.post`; what was on its way then may or may not be stored.
    """
    under_way: dict[asyncio.Task[list[Sent]], list[Line]] = {}
    try:
        for batch in batches.of(lines):
            if batch[0].error is not None:
                yield batch[0], Sent("failed", error=batch[0].error)
                continue
            under_way[asyncio.create_task(batches.send(sender, batch))] = batch
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


async def _first_done(under_way: dict[asyncio.Task[list[Sent]], list[Line]]) -> AsyncIterator[tuple[Line, Sent]]:
    done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    for task in sorted(done, key=lambda one: under_way[one][0].number):
        lines = under_way.pop(task)
        for answer in zip(lines, task.result(), strict=True):
            yield answer
