"""A connection whose transport is gone fails as a Kafka error: clients mend those, and die of any other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.kafka_client import mend_closed_connections

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _on_uvloop(body: Callable[[], Awaitable[None]]) -> None:
    mend_closed_connections()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(body(), 10))


async def _lose_transport(connection: AIOKafkaConnection) -> None:
    """Close the transport as the peer's death does, before the client's reader has seen it."""
    connection._read_task.cancel()
    connection._writer.transport.abort()
    while connection._writer.transport.get_extra_info("socket").fileno() != -1:
        await asyncio.sleep(0)


def test_sending_on_a_lost_connection_is_a_kafka_error(broker: EmbeddedBroker) -> None:
    async def body() -> None:
        host, port = broker.bootstrap.split(":")
        connection = await create_conn(host, int(port))
        await _lose_transport(connection)
        with pytest.raises(KafkaConnectionError):
            await connection.send(MetadataRequest([]))
        assert not connection.connected()

    _on_uvloop(body)


def test_metadata_are_refreshed_after_a_connection_was_lost(broker: EmbeddedBroker) -> None:
    """The refreshing task once died of it, and whoever asked for a refresh waited for ever."""

    async def body() -> None:
        client = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
        await client.bootstrap()
        await client.force_metadata_update()  # the connection for the start gives way to one to the broker
        try:
            for connection in client._conns.values():
                connection.connected = lambda: True
                await _lose_transport(connection)
            await client.force_metadata_update()
            for connection in list(client._conns.values()):
                connection.__dict__.pop("connected", None)
            assert await asyncio.wait_for(client.force_metadata_update(), 5)
        finally:
            await client.close()

    _on_uvloop(body)
