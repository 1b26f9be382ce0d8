"""A Boost worker as a child of ``boost dev``, in a session of its own."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from pathlib import Path

from boost_streams.embedded.child_server import ChildServer
from boost_streams.embedded.process import EmbeddedServerError, ManagedProcess, end_leftover

_APP = "boost_streams.worker"
_PROBE_SECONDS = 2.0


class WorkerServer(ChildServer):
    """Worker ``index``, configured by environment variables (``env``) alone, its output in ``logs``."""

    stop_seconds = 2.5  # all has to be gone 5 s after Ctrl-C

    def __init__(self, index: int, port: int, data_dir: Path, logs: Path) -> None:
        self.name = f"worker-{index}"
        self.port = port
        self.env: Mapping[str, str] = {}
        self._data_dir = data_dir
        self._log_path = logs / f"{self.name}.log"

    @property
    def url(self) -> str:
        """Where this worker answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the worker without waiting until it is ready.

        Raises:
            EmbeddedServerError: the worker cannot be run.
        """
        own = {"PORT": str(self.port), "BOOST_DATA_DIR": str(self._data_dir), "PYTHONUNBUFFERED": "1"}
        argv = [sys.executable, "-m", "faust", "-A", _APP, "worker", "-l", "info"]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._process = ManagedProcess(
            self.name, argv, self._log_path, env={**self.env, **own}, pid_file=self._pid_file
        )
        self._process.start()

    def end_leftover(self) -> None:
        """End this worker of an earlier run that was killed, and set its log aside."""
        end_leftover(self._pid_file, _APP)
        if self._log_path.exists():
            self._log_path.replace(self._log_path.with_suffix(".log.1"))

    @property
    def _pid_file(self) -> Path:
        return self._data_dir / "worker.pid"

    def wait_ready(self, deadline: float) -> None:
        """Wait until the worker lives and is ready to take and to process events.

        Raises:
            EmbeddedServerError: it ended, or ``deadline`` seconds passed; the message ends with its log.
        """
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} was not started")
        self._process.wait_ready(self.ready, deadline)

    def ready(self) -> bool:
        """Ask the worker whether it lives and is ready."""
        return self._answers_ok("/health/live") and self._answers_ok("/health/ready")

    def _answers_ok(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
