"""A child process that is started, watched, and never left behind."""

from __future__ import annotations

import ctypes
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boost_streams.embedded.server_user import ServerUser

_PR_SET_PDEATHSIG = 1
_LOG_TAIL_LINES = 15
_PROBE_INTERVAL = 0.02
_LOWEST_PORT, _HIGHEST_PORT = 20_000, 32_000
_PORT_ATTEMPTS = 1_000

_Child = subprocess.Popen[bytes]
_MakeChild = Callable[[], _Child]


class EmbeddedServerError(RuntimeError):
    """A server for this machine could not be made, started or stopped; the message says what to do."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listened on a moment ago.

    It lies below the ports that systems give to outgoing connections (Linux from 32768, macOS from 49152): one of
    those could be gone when a server that died wants its port again.
    """
    for _ in range(_PORT_ATTEMPTS):
        port = _LOWEST_PORT + secrets.randbelow(_HIGHEST_PORT - _LOWEST_PORT + 1)
        if port_is_free(port):
            return port
    raise EmbeddedServerError(f"no free port found between {_LOWEST_PORT} and {_HIGHEST_PORT}")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on ``port`` now (connections in TIME_WAIT do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def remembered_port(file: Path, name: str = "port") -> int:
    """Return the port kept in ``file`` (lines of ``name=port``), or keep a new one if it is taken or missing.

    A server that keeps its port lets clients of yesterday, and workers that outlive it, find it again.
    """
    lines = file.read_text().split() if file.exists() else []
    ports = {key: int(value) for key, _, value in (line.partition("=") for line in lines) if value.isdigit()}
    if name not in ports or not port_is_free(ports[name]):
        ports[name] = free_port()
        file.write_text("".join(f"{key}={value}\n" for key, value in ports.items()))
    return ports[name]


def command_line(pid: int) -> str:
    """Return the command line of a running process; empty when there is none (or only its zombie)."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()


def end_leftover(pid_file: Path, marker: str, stop_signal: signal.Signals = signal.SIGTERM, grace: float = 5.0) -> None:
    """End what an earlier, killed ``boost dev`` left running, and remove the file with its pid.

    The process is touched only if its command line contains ``marker``: pids are used again.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    for sent in (stop_signal, signal.SIGKILL):
        limit = time.monotonic() + grace
        if marker in command_line(pid):
            os.kill(pid, sent)
        while marker in command_line(pid) and time.monotonic() < limit:
            time.sleep(_PROBE_INTERVAL)
    pid_file.unlink(missing_ok=True)


def log_tail(log_path: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """Return the last ``lines`` lines of a log, or a sentence saying that there is none."""
    try:
        text = log_path.read_text(errors="replace")
    except OSError:
        return "(no log was written)"
    return "\n".join(text.rstrip().splitlines()[-lines:]) or "(the log is empty)"


class _Spawner:
    """Forks every child from one thread that lives as long as this process.

    Linux sends the parent-death signal when the *thread* that forked ends, so a child forked from a
    short-lived thread would die with that thread.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[_MakeChild, Future[_Child]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def spawn(self, make: _MakeChild) -> _Child:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                self._thread.start()
        future: Future[_Child] = Future()
        self._requests.put((make, future))
        return future.result()

    def _run(self) -> None:
        while True:
            make, future = self._requests.get()
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)


_spawner = _Spawner()


def _parent_death_signal(signal_number: int) -> Callable[[], None] | None:
    """Return what makes the kernel end the child with its parent, to run before exec; None outside Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def before_exec() -> None:  # after setuid, which would clear the setting
        prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


@dataclass(slots=True)
class ManagedProcess:
    """One child in a session of its own, its output in a log, ended by the kernel if this process is killed.

    ``stop_signal`` is what ``terminate`` sends first; ``death_signal`` what the child gets when its parent
    dies; ``pid_file`` is where its pid is kept for ``end_leftover``.
    """

    name: str
    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    user: ServerUser | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    pid_file: Path | None = None
    _popen: _Child | None = field(default=None, init=False)

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it was started."""
        return self._popen.pid if self._popen else 0

    @property
    def exit_code(self) -> int | None:
        """What the child ended with (minus the number of a signal that ended it), None while it runs."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Fork and exec the child, without waiting for it to be ready.

        Raises:
            EmbeddedServerError: the program cannot be run.
        """
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._popen = _spawner.spawn(self._make)
        except OSError as error:
            raise EmbeddedServerError(f"{self.name} cannot be started: {error}") from error
        if self.pid_file:
            self.pid_file.write_text(str(self.pid))

    def _make(self) -> _Child:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                user=self.user.uid if self.user else None,
                group=self.user.gid if self.user else None,
                extra_groups=[] if self.user else None,
                start_new_session=True,
                preexec_fn=_parent_death_signal(self.death_signal),
            )

    def alive(self) -> bool:
        """Tell whether the child runs."""
        return self._popen is not None and self._popen.poll() is None

    def wait_ready(
        self, probe: Callable[[], bool], deadline: float, waiting_for: Callable[[], str] | None = None
    ) -> None:
        """Wait until ``probe`` returns True, at most ``deadline`` seconds; ``waiting_for`` says what is missing.

        Raises:
            EmbeddedServerError: the child ended, or the deadline passed; the message ends with its log.
        """
        limit = time.monotonic() + deadline
        while not probe():
            if not self.alive():
                raise EmbeddedServerError(self.failure(f"ended with code {self.exit_code}"))
            if time.monotonic() > limit:
                missing = waiting_for() if waiting_for else ""
                what = f"was not ready within {deadline:g} s" + (f", waiting for {missing}" if missing else "")
                raise EmbeddedServerError(self.failure(what))
            time.sleep(_PROBE_INTERVAL)

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the child to end; tell whether it has."""
        if self._popen is None:
            return True
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self, grace: float) -> None:
        """Ask the child to end, and kill it when it still runs after ``grace`` seconds."""
        if self._popen is None:
            return
        self._popen.send_signal(self.stop_signal)
        if not self.wait(grace):
            self.kill()

    def kill(self) -> None:
        """End the child, and what it started in its session's first process group, at once."""
        if self._popen is None or self._popen.poll() is not None:
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._popen.kill()
        self._popen.wait()

    def failure(self, what: str) -> str:
        """Return a sentence saying ``what`` happened to the child, followed by the end of its log."""
        return f"{self.name} {what}; the end of {self.log_path}:\n{log_tail(self.log_path)}"


def run_tool(tool: ManagedProcess, deadline: float) -> None:
    """Run a program that does one thing and ends, within ``deadline`` seconds.

    Raises:
        EmbeddedServerError: it cannot be run, failed, or took too long; the message holds the end of its log.
    """
    tool.start()
    if not tool.wait(deadline):
        tool.kill()
        raise EmbeddedServerError(tool.failure(f"took longer than {deadline:g} s"))
    if tool.exit_code != 0:
        raise EmbeddedServerError(tool.failure(f"failed with code {tool.exit_code}"))
