"""Faust's Kafka transport, with commits that follow our own acknowledgements.

Faust counts offsets that it never handed to an agent as done: what it drops during a rebalance is committed over.
On the topics that a batch passes through, `AcknowledgedConsumer` commits what our loops acknowledged and no more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import faust
from faust.transport.drivers import aiokafka as driver

#: How long a fetch from librdkafka's in-process broker waits (milliseconds). Apache Kafka answers a waiting fetch as
#: soon as there is a message; that broker answers when the wait is over, and Faust fixes it at 1.5 s.
EMBEDDED_FETCH_WAIT_MS = 25


class Committable(Protocol):
    """Knows what may be committed."""

    def committable(self, topic: str, partition: int, committed: int | None) -> int | None:
        """Return the next offset to commit, or None when there is nothing new."""


class AcknowledgedConsumer(driver.Consumer):
    """A consumer that commits up to the first message that was not acknowledged."""

    topics: Collection[str] = ()
    progress: Committable | None = None

    def _new_offset(self, tp: Any) -> int | None:
        if self.progress is None or tp.topic not in self.topics:
            return super()._new_offset(tp)
        offset = self.progress.committable(tp.topic, tp.partition, self._committed_offset[tp])
        if offset is not None:
            self._acked[tp] = [acked for acked in self._acked[tp] if acked >= offset]
            self._acked_index[tp] = set(self._acked[tp])
        return offset

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        if self.progress is None or tp.topic not in self.topics:
            await super()._add_gap(tp, offset_from, offset_to)


class EmbeddedConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs the consumer of a worker on the in-process broker."""

    def _create_consumer(self, *args: Any, **kwargs: Any) -> Any:
        consumer = super()._create_consumer(*args, **kwargs)
        consumer._fetch_max_wait_ms = EMBEDDED_FETCH_WAIT_MS
        return consumer


class EmbeddedConsumer(AcknowledgedConsumer):
    """A consumer of the in-process broker."""

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return EmbeddedConsumerThread(self, loop=self.loop, beacon=self.beacon)


def use_acknowledged_commits(
    app: faust.App, progress: Committable, topics: Collection[str], *, embedded_broker: bool
) -> None:
    """Let an app commit on these topics what `progress` says; call it before the app starts."""
    base = EmbeddedConsumer if embedded_broker else AcknowledgedConsumer
    consumer = type(base.__name__, (base,), {"progress": progress, "topics": frozenset(topics)})
    transport = type("Transport", (driver.Transport,), {"Consumer": consumer})
    app.transport = transport(app.conf.broker_consumer, app)
