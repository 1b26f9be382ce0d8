"""A broker inside this process: librdkafka's mock cluster, which speaks the Kafka protocol on 127.0.0.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boost_streams.embedded.process import EmbeddedServerError

if TYPE_CHECKING:
    from confluent_kafka import Producer

_START_SECONDS = 10.0
_LOG_ERRORS_ONLY = 3


class EmbeddedBroker:
    """A Kafka broker in memory, for one worker on one machine; it forgets everything when it stops.

    Every topic is there when asked for, with 4 partitions. CreateTopics, ListGroups and the admin client's
    group offsets are not spoken. It runs on librdkafka's own threads: nothing needs to be polled.
    """

    name = "broker"
    stop_seconds = 0.1

    def __init__(self) -> None:
        self._producer: Producer | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients; empty before ``start``."""
        return self._bootstrap

    def start(self) -> None:
        """Start the broker, on a new port.

        Raises:
            EmbeddedServerError: confluent-kafka is not installed, or the broker does not answer.
        """
        try:
            from confluent_kafka import KafkaException, Producer
        except ImportError as error:
            raise EmbeddedServerError(
                "the embedded broker needs confluent-kafka: pip install 'boost-streams[embedded]', "
                "use --kafka, or set KAFKA_BROKER to a broker of your own"
            ) from error
        self._producer = Producer({"test.mock.num.brokers": 1, "log_level": _LOG_ERRORS_ONLY})
        try:
            brokers = self._producer.list_topics(timeout=_START_SECONDS).brokers
        except KafkaException as error:
            raise EmbeddedServerError(
                f"the embedded broker did not answer within {_START_SECONDS:g} s"
            ) from error
        address = next(iter(brokers.values()))
        self._bootstrap = f"{address.host}:{address.port}"

    def alive(self) -> bool:
        """Tell whether the broker was started; it cannot end on its own, only with this process."""
        return self._producer is not None

    def last_words(self) -> str:
        """Say that the broker is not running."""
        return "the embedded broker is not running"

    def stop(self, grace: float = 0.0) -> None:
        """Stop the broker and forget its topics."""
        self._producer = None

    def kill(self) -> None:
        """The same as ``stop``."""
        self._producer = None
