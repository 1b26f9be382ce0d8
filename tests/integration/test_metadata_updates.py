"""A consumer whose partitions have no leader asks for metadata at intervals, and not as fast as it can."""

from __future__ import annotations

import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from faust.transport.drivers import aiokafka as driver

from boost_streams.transport import METADATA_APART_SECONDS, FetchingThread, update_metadata_at_intervals
from tests.support.broker import running_broker

_UPDATES = 8


def _noting(client: Any) -> list[float]:
    """Note when each update of a client's metadata begins."""
    began: list[float] = []
    update = client._metadata_update

    async def noted(*args: Any, **kwargs: Any) -> Any:
        began.append(time.monotonic())
        return await update(*args, **kwargs)

    client._metadata_update = noted
    return began


@pytest.mark.parametrize("away", [False, True])
async def test_updates_that_follow_each_other_are_apart(away: bool) -> None:
    async with running_broker() as broker:
        await broker.publisher()
        client: Any = AIOKafkaClient(bootstrap_servers=broker.bootstrap)
        began = _noting(client)
        update_metadata_at_intervals(client)
        await client.bootstrap()
        try:
            if away:
                for known in list(client.cluster._brokers.values()):
                    client.cluster._brokers[known.nodeId] = known._replace(port=1)
                for connection in list(client._conns.values()):
                    connection.close()
            while len(began) < _UPDATES:
                await client.force_metadata_update()
        finally:
            await client.close()
    assert min(later - earlier for earlier, later in pairwise(began)) >= METADATA_APART_SECONDS * 0.99


def test_the_consumer_of_a_worker_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def update() -> None: ...

    made = SimpleNamespace(_client=SimpleNamespace(_metadata_update=update))
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_create_consumer", lambda _: made)
    thread: Any = FetchingThread.__new__(FetchingThread)
    thread.consumer = SimpleNamespace(fetch_wait_ms=None)
    assert thread._create_consumer() is made
    assert made._client._metadata_update is not update
