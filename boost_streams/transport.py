"""Faust's Kafka transport, with commits that follow our own acknowledgements.

Faust counts offsets that it never handed to an agent as done: what it drops during a rebalance is committed over.
On the topics that a batch passes through, `AcknowledgedConsumer` commits what our loops acknowledged and no more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, Protocol

import faust
from faust.transport.drivers import aiokafka as driver

#: How much a fetch waits for at the broker, for as long as the pace says; Faust fixes it at one byte and 1.5 s. What
#: arrives in that time is fetched, dispatched and settled together, which costs broker and worker once (docs/adr/0012).
FETCH_MIN_BYTES = 64 * 1024
#: How long it waits until the pace is asked (milliseconds).
FIRST_FETCH_WAIT_MS = 15
#: The same for librdkafka's in-process broker, which answers when the wait is over though there is a message.
EMBEDDED_FETCH_WAIT_MS = 25

#: How long after one update of the cluster's metadata the next begins at the earliest (seconds), as in Kafka's own
#: clients (`retry.backoff.ms`).
METADATA_APART_SECONDS = 0.1


class Committable(Protocol):
    """Knows what may be committed."""

    def committable(self, topic: str, partition: int, committed: int | None) -> int | None:
        """Return the next offset to commit, or None when there is nothing new."""

    def holds(self, topic: str) -> bool:
        """Tell whether nothing is to be fetched of a topic."""


class Paced(Protocol):
    """Knows how far apart fetches are to be, and for how long each may wait at the broker."""

    def between_fetches(self) -> float:
        """Return how long after one fetch the next begins at the earliest (seconds)."""

    def fetch_wait(self) -> float:
        """Return how long a fetch may wait at the broker for more (seconds)."""


class FetchingThread(driver.AIOKafkaConsumerThread):
    """Runs a consumer whose fetches do not wait for long."""

    def _create_consumer(self, *args: Any, **kwargs: Any) -> Any:
        consumer = super()._create_consumer(*args, **kwargs)
        own: Any = self.consumer
        consumer._fetch_max_wait_ms = own.fetch_wait_ms or FIRST_FETCH_WAIT_MS
        consumer._fetch_min_bytes = FETCH_MIN_BYTES
        update_metadata_at_intervals(consumer._client)
        return consumer

    def let_fetches_wait(self, milliseconds: int) -> None:
        """Say how long the next fetches wait at the broker; until the consumer has started nothing is fetched."""
        fetcher = getattr(self._consumer, "_fetcher", None)
        if fetcher is not None:
            fetcher._fetch_max_wait_ms = milliseconds


def update_metadata_at_intervals(client: Any) -> None:
    """Keep an `AIOKafkaClient` from updating its metadata again and again without a pause.

    While a partition has no leader, as when its broker goes away in order, aiokafka's fetcher asks for an update, is
    woken by its failure and asks again: a thread that never rests, and leaves the event loop a tenth of its pace
    (aiokafka 0.14; its issue 1155 is about the same loop where the broker answers).
    """
    update, due = client._metadata_update, 0.0

    async def after_a_pause(*args: Any, **kwargs: Any) -> Any:
        nonlocal due
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        due = time.monotonic() + METADATA_APART_SECONDS
        return await update(*args, **kwargs)

    client._metadata_update = after_a_pause


class AcknowledgedConsumer(driver.Consumer):
    """A consumer that commits up to the first message that was not acknowledged."""

    topics: Collection[str] = ()
    progress: Committable | None = None
    pace: Paced | None = None
    #: How long every fetch waits at the broker (milliseconds); None: as long as the pace says.
    fetch_wait_ms: int | None = None
    _fetch_due = 0.0

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return FetchingThread(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: Any) -> int | None:
        if self.progress is None or tp.topic not in self.topics:
            return super()._new_offset(tp)
        offset = self.progress.committable(tp.topic, tp.partition, self._committed_offset[tp])
        if offset is not None:
            self._acked[tp] = [acked for acked in self._acked[tp] if acked >= offset]
            self._acked_index[tp] = set(self._acked[tp])
        return offset

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Fetch from the partitions whose topics are not paused: what nobody takes would block all the others."""
        await self._wait_for_more()
        if self.progress is None or not active_partitions:
            return await super()._getmany(active_partitions, timeout)
        fetched = {tp for tp in active_partitions if not self.progress.holds(tp.topic)}
        if not fetched:  # aiokafka takes an empty set for "all"
            await self.sleep(timeout)
            return {}
        return await super()._getmany(fetched, timeout)

    async def _wait_for_more(self) -> None:
        """Leave the time between two fetches that the pace asks for: each costs the worker and the broker something."""
        if self.pace is None:
            return
        now = time.monotonic()
        if (wait := self._fetch_due - now) > 0:
            await self.sleep(wait)
            now += wait
        self._fetch_due = now + self.pace.between_fetches()
        if self.fetch_wait_ms is None:
            self._let_fetches_wait(round(self.pace.fetch_wait() * 1000))

    def _let_fetches_wait(self, milliseconds: int) -> None:
        thread: Any = self._thread
        thread.let_fetches_wait(milliseconds)

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Say what seems stuck; a topic that is paused only waits."""
        if self.progress is None or not self.progress.holds(tp.topic):
            super().verify_event_path(now, tp)

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        if self.progress is None or tp.topic not in self.topics:
            await super()._add_gap(tp, offset_from, offset_to)


class EmbeddedConsumer(AcknowledgedConsumer):
    """A consumer of the in-process broker."""

    fetch_wait_ms = EMBEDDED_FETCH_WAIT_MS


def use_acknowledged_commits(
    app: faust.App, progress: Committable, topics: Collection[str], pace: Paced, *, embedded_broker: bool
) -> None:
    """Let an app commit on these topics what `progress` says, and fetch at a pace; call it before the app starts."""
    base = EmbeddedConsumer if embedded_broker else AcknowledgedConsumer
    consumer = type(base.__name__, (base,), {"progress": progress, "topics": frozenset(topics), "pace": pace})
    transport = type("Transport", (driver.Transport,), {"Consumer": consumer})
    app.transport = transport(app.conf.broker_consumer, app)
