"""A Boost worker as a child of ``boost dev``, in a session of its own."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from boost_streams.embedded.child_server import ChildServer
from boost_streams.embedded.process import EmbeddedServerError, ManagedProcess, end_leftover

_APP = "boost_streams.worker"
_PROBE_SECONDS = 2.0
#: How long nobody needs to be told what a worker is waiting for: a start takes this long (seconds).
_QUIET_SECONDS = 4.0


class WorkerServer(ChildServer):
    """Worker ``index``, configured by environment variables (``env``) alone, its output in ``logs``."""

    stop_seconds = 2.5  # all has to be gone 5 s after Ctrl-C

    def __init__(self, index: int, port: int, data_dir: Path, logs: Path) -> None:
        self.name = f"worker-{index}"
        self.port = port
        self._missing = ""
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

    def wait_ready(self, deadline: float, say: Callable[[str], None] = lambda _: None) -> None:
        """Wait until the worker lives and is ready to take and to process events.

        ``say`` is told what the worker is waiting for, from a few seconds on, whenever that changes.

        Raises:
            EmbeddedServerError: it ended, or ``deadline`` seconds passed; the message ends with its log.
        """
        if self._process is None:
            raise EmbeddedServerError(f"{self.name} was not started")
        quiet_until = time.monotonic() + _QUIET_SECONDS
        said = ""

        def ready() -> bool:
            nonlocal said
            if self.ready():
                return True
            missing = self._missing
            if missing and missing != said and time.monotonic() > quiet_until:
                said = missing
                say(f"{self.name} is waiting for {missing}")
            return False

        self._process.wait_ready(ready, deadline, lambda: self._missing)

    def ready(self) -> bool:
        """Ask the worker whether it lives and is ready."""
        return self._answer("/health/live") is not None and self._parts_are_ready()

    def _parts_are_ready(self) -> bool:
        """Ask for the parts that are ready, and keep what those that are not say of it."""
        parts = self._answer("/health/ready")
        if parts is None:
            self._missing = ""
            return False
        self._missing = "; ".join(f"{name}: {said}" for name, said in parts.items() if _holds_up(said))
        return not self._missing

    def _answer(self, path: str) -> dict[str, str] | None:
        """Return the parts that a health page names, None when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", path)
            parts = json.loads(connection.getresponse().read())["parts"]
            return {str(name): str(said) for name, said in parts.items()}
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return None
        finally:
            connection.close()


def _holds_up(said: str) -> bool:
    return said != "ok" and not said.startswith("warning: ")
