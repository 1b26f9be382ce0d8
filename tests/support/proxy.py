"""A TCP proxy that makes network faults: frozen, slow, cut, half-open or lossy connections, and refused ones."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

_BLOCK = 64 * 1024
#: How many blocks may be under way in one direction of a connection: what is slow need not be narrow.
_BLOCKS_UNDER_WAY = 256


class _Connection:
    """One client's connection and the one to the server that goes with it."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.directions = len(writers)
        #: Nothing is carried any more, and neither side is told.
        self.silent = False
        #: The next block is carried by half, then the connection is reset.
        self.cut_next = False

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class FaultProxy:
    """Carries bytes between clients and one server. `port` is where clients connect."""

    def __init__(self, host: str, port: int, *, chance: random.Random | None = None) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._chance = chance or random.Random(0)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        #: How long every block is under way (seconds, each direction).
        self.delay = 0.0
        #: How likely a block resets its connection in place of arriving.
        self.loss = 0.0

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
        for connection in list(self._connections):
            connection.reset()

    def cut_mid_message(self) -> int:
        """Carry half of the next block of every connection, then reset it; return how many connections there are."""
        for connection in self._connections:
            connection.cut_next = True
        return len(self._connections)

    def half_open(self) -> int:
        """Drop whatever the present connections send from now on, for ever; new ones work. Returns how many."""
        for connection in self._connections:
            connection.silent = True
        return len(self._connections)

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
        connection = _Connection(writer, server_writer)
        self._connections.add(connection)
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._carry(connection, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End everything that is carried."""
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Carry one direction: blocks arrive in their order, each `delay` after it was sent."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BLOCKS_UNDER_WAY)
        delivery = asyncio.create_task(self._deliver(connection, under_way, sink))
        now = asyncio.get_running_loop().time
        try:
            with contextlib.suppress(OSError):
                while block := await source.read(_BLOCK):
                    await under_way.put((now() + self.delay, block))
            await under_way.put((now() + self.delay, b""))
            await delivery
        finally:
            delivery.cancel()
            connection.directions -= 1
            if not connection.directions:
                self._connections.discard(connection)

    async def _deliver(
        self, connection: _Connection, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, block = await under_way.get()
            if (pause := due - now()) > 0:
                await asyncio.sleep(pause)
            await self._flowing.wait()
            if connection.silent:
                continue
            with contextlib.suppress(OSError):
                if not block:
                    sink.close()
                    return
                if connection.cut_next:
                    sink.write(block[: len(block) // 2])
                    await asyncio.sleep(0.01)
                    connection.reset()
                elif self.loss and self._chance.random() < self.loss:
                    connection.reset()
                else:
                    sink.write(block)
                    await sink.drain()


@contextlib.asynccontextmanager
async def fault_proxy(
    host: str, port: int, *, listen: int = 0, chance: random.Random | None = None
) -> AsyncIterator[FaultProxy]:
    """Run a proxy in front of a server, on a port of its own or on `listen`."""
    proxy = FaultProxy(host, port, chance=chance)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", listen)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
