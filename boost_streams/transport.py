"""Faust's Kafka transport, with a short fetch wait for librdkafka's in-process broker.

Apache Kafka answers a waiting fetch as soon as there is a message. The in-process broker answers when the wait is
over, and Faust fixes that at 1.5 s, which an event would wait twice.
"""

from __future__ import annotations

from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver

#: How long a fetch from the in-process broker waits (milliseconds).
EMBEDDED_FETCH_WAIT_MS = 25


class EmbeddedConsumerThread(driver.AIOKafkaConsumerThread):
    """Runs the consumer of a worker on the in-process broker."""

    def _create_consumer(self, *args: Any, **kwargs: Any) -> Any:
        consumer = super()._create_consumer(*args, **kwargs)
        consumer._fetch_max_wait_ms = EMBEDDED_FETCH_WAIT_MS
        return consumer


class EmbeddedConsumer(driver.Consumer):
    """A consumer of the in-process broker."""

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return EmbeddedConsumerThread(self, loop=self.loop, beacon=self.beacon)


class EmbeddedTransport(driver.Transport):
    """Kafka transport of a worker on the in-process broker."""

    Consumer = EmbeddedConsumer


def use_embedded_transport(app: faust.App) -> None:
    """Let an app consume from the in-process broker without waiting."""
    app.transport = EmbeddedTransport(app.conf.broker_consumer, app)
