"""A broker inside this process: librdkafka's mock cluster, which speaks the Kafka protocol on 127.0.0.1."""

from __future__ import annotations

import ctypes

from boost_streams.embedded.process import EmbeddedServerError

_PRODUCER = 0  # rd_kafka_type_t
_LOG_ERRORS_ONLY = b"3"
_ERROR_TEXT_BYTES = 512


class EmbeddedBroker:
    """A Kafka broker in memory, for one worker on one machine; it forgets everything when it stops.

    Every topic is there when asked for, with 4 partitions. CreateTopics, ListGroups and the admin client's
    group offsets are not spoken. It runs on librdkafka's own threads: nothing needs to be polled.

    librdkafka is called directly, through the extension module of confluent-kafka that has it linked in: the
    ``test.mock.num.brokers`` setting makes the same cluster, but one whose groups wait 3 s for more members.
    """

    name = "broker"
    stop_seconds = 0.1

    def __init__(self) -> None:
        self.bootstrap = ""  # host:port for clients, once started
        self._library: ctypes.CDLL | None = None
        self._client: int | None = None
        self._cluster: int | None = None

    def start(self) -> None:
        """Start the broker, on a new port.

        Raises:
            EmbeddedServerError: confluent-kafka is not installed, or its librdkafka makes no cluster.
        """
        self._library = library = _librdkafka()
        error = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        configuration = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(configuration, b"log_level", _LOG_ERRORS_ONLY, error, _ERROR_TEXT_BYTES)
        self._client = library.rd_kafka_new(_PRODUCER, configuration, error, _ERROR_TEXT_BYTES)
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1) if self._client else None
        if self._cluster is None:
            raise EmbeddedServerError(f"the embedded broker did not start: {error.value.decode()}")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def alive(self) -> bool:
        """Tell whether the broker was started; it cannot end on its own, only with this process."""
        return self._cluster is not None

    def last_words(self) -> str:
        """Say that the broker is not running."""
        return "the embedded broker is not running"

    def stop(self, grace: float = 0.0) -> None:
        """Stop the broker and forget its topics."""
        if self._library and self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    def kill(self) -> None:
        """The same as ``stop``."""
        self.stop()


def _librdkafka() -> ctypes.CDLL:
    """Return librdkafka as the extension module of confluent-kafka has loaded it, with the types we call."""
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise EmbeddedServerError(
            "the embedded broker needs confluent-kafka: pip install 'boost-streams[embedded]', "
            "use --kafka, or set KAFKA_BROKER to a broker of your own"
        ) from error
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
