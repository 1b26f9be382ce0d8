"""Worker processes of a test, and a client that behaves as a good SDK does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from boost_streams.embedded.process import free_port
from tests.support.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
_METRIC = re.compile(r"^(?P<name>[a-z_]+)(?:\{[^}]*\})? (?P<value>[0-9.e+]+)$", re.MULTILINE)


#: The logs of the workers of the test that is running; `tests/conftest.py` shows them if it fails, and removes them.
LOGS: list[Path] = []


def new_log() -> Path:
    """Return the path of a new log."""
    LOGS.append(Path(tempfile.mkstemp(prefix="boost-worker-", suffix=".log")[1]))
    return LOGS[-1]


@dataclass
class WorkerProcess:
    """One `faust worker` on a port of its own."""

    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(default_factory=new_log)
    #: Where its code is: this checkout, or another release (`tests/support/releases.py`).
    root: Path = ROOT
    module: str = "boost_streams.worker"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; `ready` says when it takes requests and has partitions."""
        environment = {
            **os.environ,
            **self.environment,
            "PORT": str(self.port),
            "HOST": "127.0.0.1",
            "BOOST_DATA_DIR": tempfile.mkdtemp(prefix="boost-worker-"),
            "PYTHONPATH": str(self.root),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "faust", "-A", self.module, "worker", "-l", "info"],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=self.root,
                start_new_session=True,
            )

    async def ready(self, deadline: float = 40) -> None:
        """Wait until it is ready."""
        await eventually(self._is_ready, deadline=deadline, what=f"worker {self.url} ready; log {self.log}")

    async def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"worker ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
                async with session.get(f"{self.url}/health/ready") as response:
                    return response.status == 200
        return False

    def kill(self) -> None:
        """SIGKILL, and collect it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    async def terminate(self, deadline: float = 15) -> float:
        """SIGTERM; return how many seconds it took to end."""
        assert self.process is not None
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        await eventually(lambda: self.process and self.process.poll() is not None, deadline=deadline)
        return time.monotonic() - started

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0 when it does not answer."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
                async with session.get(f"{self.url}/metrics") as response:
                    text = await response.text()
            return sum(float(match["value"]) for match in _METRIC.finditer(text) if match["name"] == name)
        return 0.0

    def stop(self) -> None:
        """End it whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Client:
    """Sends events to any of several workers; retries with the same messageId, as an SDK does."""

    def __init__(self, workers: list[WorkerProcess], key: str) -> None:
        self._workers = workers
        self._session = aiohttp.ClientSession(
            headers={"x-api-key": key}, timeout=aiohttp.ClientTimeout(total=15, connect=1)
        )
        self._turn = 0
        self.accepted: dict[str, str] = {}
        self.slowest = 0.0
        self.statuses: dict[int, int] = {}

    async def send(self, event: Mapping[str, Any], deadline: float = 60) -> str:
        """Send one event until it is accepted; return its id."""
        body = {"messageId": uuid.uuid4().hex, **event}
        started = time.monotonic()
        while time.monotonic() - started < deadline:
            self._turn += 1
            worker = self._workers[self._turn % len(self._workers)]
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.post(f"{worker.url}/events", json=body) as response:
                    answer = await response.json()
                    self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
                    if response.status == 202:
                        self.accepted[answer["id"]] = body["messageId"]
                        self.slowest = max(self.slowest, time.monotonic() - started)
                        return str(answer["id"])
                    assert response.status == 503, answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"not accepted within {deadline} s; statuses {self.statuses}")

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
