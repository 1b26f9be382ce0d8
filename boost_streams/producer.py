"""The producer of our own records: librdkafka, whose threads batch, compress and send while Python does something else.

Faust's own producer stays for the changelog of its tables. A message costs a worker a tenth of what it costs there
(docs/adr/0021); what it guarantees is the same: acknowledged by every in-sync replica, or failed within a deadline.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from mode import Service

from boost_streams.errors import BrokerAway, MessageTooLarge
from boost_streams.logs import LIBRDKAFKA
from boost_streams.records import RecordCodec
from boost_streams.settings import Settings
from boost_streams.topics import max_message_bytes

#: How long a message may wait for its delivery before it counts as failed (milliseconds).
DELIVERY_TIMEOUT_MS = 10_000
#: How long a message waits for others that go to the same partition (milliseconds); those of a busy worker are held
#: back and handed over together anyway.
LINGER_MS = 1
#: How often deliveries are looked for while some are awaited, and otherwise, for the log's sake (seconds).
POLL_SECONDS = 0.002
_IDLE_SECONDS = 1.0
#: How long the stop waits for what is on its way (seconds).
_FLUSH_SECONDS = 2.0
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)

_log = logging.getLogger(__name__)


def producer_options(settings: Settings) -> dict[str, Any]:
    """Return librdkafka's configuration for these settings."""
    largest = max_message_bytes(settings) + 64 * 1024
    options: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.brokers),
        "client.id": "boost-streams",
        "security.protocol": settings.kafka_security_protocol,
        "acks": "all",
        "compression.type": "zstd",
        # As Kafka's own clients and aiokafka choose a partition by a key: tables are co-partitioned with their source.
        "partitioner": "murmur2_random",
        "linger.ms": LINGER_MS,
        "message.max.bytes": largest,
        "message.timeout.ms": DELIVERY_TIMEOUT_MS,
        "request.timeout.ms": DELIVERY_TIMEOUT_MS,
        "queue.buffering.max.kbytes": 256 * 1024,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        "log.connection.close": False,
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password,
        }
    tls = {
        "ssl.ca.location": settings.kafka_ssl_cafile,
        "ssl.certificate.location": settings.kafka_ssl_certfile,
        "ssl.key.location": settings.kafka_ssl_keyfile,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        options |= {name: value for name, value in tls.items() if value}
    return options


class RecordProducer(Service):
    """Sends messages; starts behind the broker's gate, stops when all that send have stopped.

    `between_sends` says how long after one hand-over to librdkafka the next one comes at the earliest (seconds): what
    is sent meanwhile goes together, in one request.
    """

    logger = _log

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._producer: Producer | None = None
        #: How many messages librdkafka has that are not delivered yet: only then there is something to poll for.
        self._on_their_way = 0
        self._poll_handle: asyncio.TimerHandle | None = None
        self.between_sends: Callable[[], float] = lambda: 0.0
        self._held: list[Callable[[], None]] = []
        self._handed_over = 0.0

    async def on_start(self) -> None:
        """Make the client; it connects by itself."""
        self._producer = Producer(producer_options(self._settings), logger=logging.getLogger(LIBRDKAFKA))
        self._poll()

    async def on_stop(self) -> None:
        """Wait, but not for long, for what is on its way."""
        async with asyncio.timeout(_FLUSH_SECONDS):
            while self._held or self._on_their_way:  # noqa: ASYNC110 - deliveries are polled for
                await asyncio.sleep(POLL_SECONDS)
        if self._poll_handle is not None:
            self._poll_handle.cancel()

    def topic(self, name: str, record_type: type[msgspec.Struct]) -> OutgoingTopic:
        """Return what sends records of one type to a topic (its name on the broker)."""
        return OutgoingTopic(self, name, record_type)

    def send(self, topic: str, value: bytes, key: bytes | None = None) -> asyncio.Future[None]:
        """Send a message; the future is done when every in-sync replica has it.

        Raises:
            BrokerAway: The producer does not run. The future raises it too, when the message was not taken or too much
                waits for the broker, and MessageTooLarge.
        """
        if self._producer is None:
            raise BrokerAway("the producer is not running")
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()
        produce = functools.partial(self._producer.produce, topic, value, key)
        wait = self._handed_over + self.between_sends() - time.monotonic()
        if not self._held and wait <= 0:
            self._handed_over = time.monotonic()
            self._hand_over(produce, delivered)
        else:
            if not self._held:
                loop.call_later(wait, self._hand_over_held)
            self._held.append(functools.partial(self._hand_over, produce, delivered))
        return delivered

    def _hand_over_held(self) -> None:
        held, self._held = self._held, []
        self._handed_over = time.monotonic()
        for hand_over in held:
            hand_over()

    def _hand_over(self, produce: Callable[..., None], delivered: asyncio.Future[None]) -> None:
        self._on_their_way += 1
        if self._on_their_way == 1:
            self._poll_in(POLL_SECONDS)
        try:
            produce(on_delivery=functools.partial(self._delivered, delivered))
        except (BufferError, KafkaException) as error:
            self._on_their_way -= 1
            if not delivered.done():
                delivered.set_exception(_refusal(error))

    def _delivered(self, delivered: asyncio.Future[None], error: KafkaError | None, _: Any) -> None:
        self._on_their_way -= 1
        if delivered.done():
            return
        if error is None:
            delivered.set_result(None)
        else:
            delivered.set_exception(_named(error))

    def _poll(self) -> None:
        if self._producer is not None:
            self._producer.poll(0)
        self._poll_in(POLL_SECONDS if self._on_their_way else _IDLE_SECONDS)

    def _poll_in(self, seconds: float) -> None:
        if self._poll_handle is not None:
            self._poll_handle.cancel()
        self._poll_handle = asyncio.get_running_loop().call_later(seconds, self._poll)


class OutgoingTopic:
    """Sends records of one type to one topic."""

    def __init__(self, producer: RecordProducer, name: str, record_type: type[msgspec.Struct]) -> None:
        self._producer = producer
        self._name = name
        self._codec = RecordCodec(record_type)

    async def send(self, *, key: bytes | None, value: msgspec.Struct) -> Awaitable[None]:
        """Send a record; what is returned waits for its delivery.

        Raises:
            MessageTooLarge, BrokerAway: As `RecordProducer.send` says.
        """
        return self._producer.send(self._name, self._codec.encode(value), key)


def _refusal(error: BufferError | KafkaException) -> MessageTooLarge | BrokerAway:
    if isinstance(error, BufferError):
        return BrokerAway(f"too many messages wait for the broker: {error}")
    return _named(error.args[0])


def _named(error: KafkaError) -> MessageTooLarge | BrokerAway:
    if error.code() in _TOO_LARGE:
        return MessageTooLarge(f"a message is over the topic's limit: {error.str()}")
    return BrokerAway(error.str())
