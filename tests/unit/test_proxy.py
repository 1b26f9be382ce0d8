"""The proxy of the fault suite does what it says to connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.proxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy in front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(1024):
                writer.write(block)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with fault_proxy("127.0.0.1", server.sockets[0].getsockname()[1], chance=random.Random(1)) as running:
        yield running
    server.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    writer.write(text)
    async with asyncio.timeout(2):
        return await reader.readexactly(len(text))


async def test_latency_holds_back_and_keeps_the_order(proxy: FaultProxy) -> None:
    connection = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.delay = 0.1
    started = time.monotonic()
    assert await ask(*connection, b"one two three") == b"one two three"
    assert 0.2 <= time.monotonic() - started < 1.0


async def test_a_half_open_connection_is_silent_and_new_ones_work(proxy: FaultProxy) -> None:
    old = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask(*old, b"there") == b"there"
    assert proxy.half_open() == 1
    old[1].write(b"lost")
    new = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask(*new, b"there") == b"there"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(old[0].read(1), 0.2)


async def test_a_message_is_cut_in_half(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask(reader, writer, b"there") == b"there"
    assert proxy.cut_mid_message() == 1
    writer.write(b"12345678")
    with contextlib.suppress(ConnectionResetError):
        assert len(await asyncio.wait_for(reader.read(), 2)) < 8
    again = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await ask(*again, b"there") == b"there"


async def test_loss_resets_connections(proxy: FaultProxy) -> None:
    proxy.loss = 1.0
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(reader, writer, b"lost")
