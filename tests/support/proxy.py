"""A TCP proxy that makes network faults: it can freeze what it carries, cut it, and refuse what is new."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_BLOCK = 64 * 1024


class FaultProxy:
    """Carries bytes between clients and one server. `port` is where clients connect."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def freeze(self) -> None:
        """Carry nothing more, without a word to either side: packets are lost."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Carry again, beginning with what was held back."""
        self._flowing.set()

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once, or stop doing so."""
        self._refusing = refusing

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one client's connection to the server."""
        if self._refusing:
            writer.transport.abort()
            return
        await self._flowing.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End everything that is carried."""
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await source.read(_BLOCK):
                await self._flowing.wait()
                sink.write(block)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()


@contextlib.asynccontextmanager
async def fault_proxy(host: str, port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of a server."""
    proxy = FaultProxy(host, port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
