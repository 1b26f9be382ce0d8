"""How every Kafka client of Boost connects: addresses, TLS and SASL, from the settings."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError

from boost_streams.settings import Settings

#: How long one request to a broker may take (milliseconds).
REQUEST_TIMEOUT_MS = 10_000


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """Build the TLS context, or None where the protocol has none."""
    if "SSL" not in settings.kafka_security_protocol.replace("SASL", ""):
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
    if settings.kafka_ssl_certfile:
        context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile)
    return context


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments with which an aiokafka client connects."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.brokers),
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password,
        }
    return options


def mend_closed_connections() -> None:
    """Have aiokafka take a transport that uvloop has closed for a broken connection; once per process is enough.

    uvloop raises RuntimeError where asyncio raises OSError or nothing, and aiokafka 0.14 mends only the latter
    (aiokafka issue 1038): its metadata refresh dies, and from then on commits and look-ups wait for ever.
    """
    for name in ("send", "_send_sasl_token"):
        original = getattr(AIOKafkaConnection, name)
        if not hasattr(original, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _closed_is_broken(original))


def _closed_is_broken(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(self: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        except KafkaError:  # which are RuntimeErrors too: what this broker does not know says nothing of the connection
            raise
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection to {self.host}:{self.port} is closed") from error

    return send
