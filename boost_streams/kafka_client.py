"""How every Kafka client of Boost connects: addresses, TLS and SASL, from the settings."""

from __future__ import annotations

import ssl
from typing import Any

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
