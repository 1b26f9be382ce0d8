"""What the servers of this package have in common: one child, started, watched and stopped."""

from __future__ import annotations

from typing import Protocol

from boost_streams.embedded.process import ManagedProcess


class Server(Protocol):
    """Something that the supervisor starts, watches, starts again and stops."""

    name: str
    #: How long ``stop`` may take before the server is killed, in seconds, when there is time.
    stop_seconds: float

    def start(self) -> None:
        """Start; return when it can be used, or raise ``EmbeddedServerError``."""

    def alive(self) -> bool:
        """Tell whether it runs."""

    def last_words(self) -> str:
        """Say how it ended."""

    def stop(self, grace: float) -> None:
        """Stop in good order, or at once after ``grace`` seconds."""

    def kill(self) -> None:
        """End at once."""


class ChildServer:
    """A server that is one child process; ``start`` is the subclass's."""

    name: str
    stop_seconds = 2.0
    _process: ManagedProcess | None = None

    @property
    def pid(self) -> int:
        """The server's process id; 0 before ``start``."""
        return self._process.pid if self._process else 0

    def alive(self) -> bool:
        """Tell whether the server runs."""
        return self._process is not None and self._process.alive()

    def last_words(self) -> str:
        """Say how the server ended, with the end of its log."""
        if self._process is None:
            return f"{self.name} was not started"
        return self._process.failure(f"ended with code {self._process.exit_code}")

    def stop(self, grace: float = 10.0) -> None:
        """Shut down in good order; kill the server when that takes longer than ``grace`` seconds."""
        if self._process:
            self._process.terminate(grace)

    def kill(self) -> None:
        """End the server at once, as a crash would; the next start takes the same port and data."""
        if self._process:
            self._process.kill()
