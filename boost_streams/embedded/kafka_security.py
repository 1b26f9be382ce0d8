"""TLS and a password for a local Kafka, so that tests can meet a broker like those in production."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from boost_streams.embedded.process import EmbeddedServerError, ManagedProcess, run_tool

_OPENSSL_SECONDS = 30.0
_DAYS = "3650"
_SERVER_EXTENSIONS = """\
subjectAltName = IP:127.0.0.1, DNS:localhost
basicConstraints = CA:FALSE
keyUsage = digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
"""
_CA_CONFIG = """\
[req]
distinguished_name = name
x509_extensions = ca
prompt = no
[name]
CN = Boost Streams local CA
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """What a client must bring to a secured local Kafka: SASL/PLAIN over TLS (``SASL_SSL``)."""

    username: str = "boost"
    password: str = field(default="boost-local-only", repr=False)

    protocol = "SASL_SSL"
    mechanism = "PLAIN"

    def properties(self, folder: Path) -> Mapping[str, str]:
        """Return the broker's properties; the certificates in ``folder`` are made when they are not there."""
        authority, server = make_certificates(folder)
        login = f'username="{self.username}" password="{self.password}" user_{self.username}="{self.password}"'
        return {
            "sasl.enabled.mechanisms": self.mechanism,
            "sasl.mechanism.inter.broker.protocol": self.mechanism,
            "listener.name.client.plain.sasl.jaas.config": (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {login};"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(server),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority),
        }


def make_certificates(folder: Path) -> tuple[Path, Path]:
    """Make a certificate authority and a certificate for 127.0.0.1 in ``folder``, once.

    Returns:
        The authority's certificate, for clients; and the server's key and certificate in one PEM file.

    Raises:
        EmbeddedServerError: openssl is missing or fails.
    """
    authority, server = folder / "ca.crt", folder / "server.pem"
    if server.exists():
        return authority, server
    if shutil.which("openssl") is None:
        raise EmbeddedServerError("a Kafka with TLS needs the openssl program on PATH")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "ca.cnf").write_text(_CA_CONFIG)
    (folder / "server.ext").write_text(_SERVER_EXTENSIONS)
    new_key = "-newkey rsa:2048 -nodes"
    _openssl(folder, f"req -x509 {new_key} -keyout ca.key -out ca.crt -days {_DAYS} -config ca.cnf")
    _openssl(folder, f"req {new_key} -keyout server.key -out server.csr -subj /CN=localhost")
    sign = "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile server.ext"
    _openssl(folder, f"{sign} -out server.crt -days {_DAYS}")
    server.touch(mode=0o600)
    server.write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())
    return authority, server


def _openssl(folder: Path, arguments: str) -> None:
    tool = ManagedProcess("openssl", ["openssl", *arguments.split()], folder / "openssl.log", cwd=folder)
    run_tool(tool, _OPENSSL_SECONDS)
