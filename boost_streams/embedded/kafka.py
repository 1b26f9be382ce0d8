"""A real Apache Kafka on this machine: one process, KRaft, run from its Maven artifacts."""

from __future__ import annotations

import shutil
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from string import Template

from boost_streams.embedded.child_server import ChildServer
from boost_streams.embedded.kafka_jars import (
    KAFKA_FILES,
    check_java_version,
    java_program,
    kafka_available,
    kafka_jars,
)
from boost_streams.embedded.kafka_security import KafkaSecurity
from boost_streams.embedded.process import ManagedProcess, end_leftover, remembered_port, run_tool

__all__ = ["KafkaSecurity", "LocalKafka", "kafka_available"]

_HEAP = ("-Xms256m", "-Xmx512m")
_STARTED = "Kafka Server started"
_READY_SECONDS = 60.0
_FORMAT_SECONDS = 60.0


class LocalKafka(ChildServer):
    """One broker and controller in ``data_dir``, on 127.0.0.1, keeping its port and its data over restarts.

    ``jars_dir`` is a folder with Kafka's jars; without it they are brought by Maven into the cache once.
    ``security`` makes the client listener demand SASL/PLAIN over TLS; ``extra_properties`` are added to the
    broker's and win over ours.
    """

    name = "kafka"

    def __init__(
        self,
        data_dir: Path,
        jars_dir: Path | None = None,
        port: int | None = None,
        security: KafkaSecurity | None = None,
        extra_properties: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or 0
        self.security = security
        self._fixed_port = port
        self._controller_port = 0
        self._jars_dir = jars_dir
        self._extra_properties = dict(extra_properties or {})
        self._properties_file = self.data_dir / "server.properties"
        self._log_path = self.data_dir / "kafka.log"

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients; port 0 before ``start``."""
        return f"127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that clients of a secured broker must trust."""
        return self.data_dir / "tls" / "ca.crt"

    def start(self) -> None:
        """Start the broker, formatting its storage the first time, and return once it takes requests.

        Raises:
            EmbeddedServerError: Java or Maven is missing, or the broker does not come up.
        """
        java = java_program()
        jars = self._jars_dir or kafka_jars()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        end_leftover(self._pid_file, str(self._properties_file))
        self._choose_ports()
        self._write_properties()
        self._format_storage(java, jars)
        log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        self._process = self._child(self.name, java, jars, [*_HEAP], ["kafka.Kafka", str(self._properties_file)])
        self._process.pid_file = self._pid_file
        self._process.start()
        self._process.wait_ready(lambda: self._logged(_STARTED, log_start), _READY_SECONDS)

    def wipe(self) -> None:
        """End the broker and remove its data; the port stays."""
        self.kill()
        shutil.rmtree(self._storage, ignore_errors=True)

    @property
    def _storage(self) -> Path:
        return self.data_dir / "data"

    @property
    def _pid_file(self) -> Path:
        return self.data_dir / "kafka.pid"

    def _choose_ports(self) -> None:
        ports = self.data_dir / "ports"
        self.port = self._fixed_port or remembered_port(ports, "client")
        self._fixed_port = self.port
        self._controller_port = self._controller_port or remembered_port(ports, "controller")

    def _write_properties(self) -> None:
        template = Template((KAFKA_FILES / "server.properties").read_text())
        text = template.substitute(
            port=self.port,
            controller_port=self._controller_port,
            client_protocol=self.security.protocol if self.security else "PLAINTEXT",
            log_dir=self._storage,
        )
        secured = self.security.properties(self.ca_file.parent) if self.security else {}
        added = "".join(f"{key}={value}\n" for key, value in {**secured, **self._extra_properties}.items())
        self._properties_file.touch(mode=0o600)
        self._properties_file.write_text(f"{text}\n{added}")

    def _format_storage(self, java: str, jars: Path) -> None:
        if (self._storage / "meta.properties").exists():
            return
        check_java_version(java)
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--ignore-formatted"]
        command = [*tool, "--config", str(self._properties_file)]
        run_tool(self._child("kafka storage format", java, jars, [], command), _FORMAT_SECONDS)

    def _logged(self, line: str, since: int) -> bool:
        with self._log_path.open("rb") as log:
            log.seek(since)
            return line.encode() in log.read()

    def _child(self, name: str, java: str, jars: Path, options: list[str], command: list[str]) -> ManagedProcess:
        logging = f"-Dlog4j2.configurationFile={KAFKA_FILES / 'log4j2.yaml'}"
        argv = [java, *options, logging, "-cp", f"{jars}/*", *command]
        return ManagedProcess(name, argv, self._log_path, cwd=self.data_dir)
