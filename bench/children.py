"""Programs that the bench starts itself: none of them outlives it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError

ROOT = Path(__file__).parent.parent
_running: set[Child] = set()


class Child:
    """A program whose output is read at its end."""

    def __init__(self, name: str, argv: Sequence[object]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _running.add(self)

    @property
    def pid(self) -> int:
        """The process id, for its CPU time."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def output(self, deadline: float) -> str:
        """Wait for the end and return what it printed.

        Raises:
            BenchError: It failed, or took longer than `deadline` seconds; the message holds what it wrote.
        """
        try:
            output, errors = self._process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} did not come to an end within {deadline:g} s") from None
        finally:
            self.end()
        if self._process.returncode != 0:
            raise BenchError(f"{self.name} failed:\n{errors.strip() or output.strip()}")
        return output

    def end(self) -> None:
        """End it if it still runs."""
        _running.discard(self)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def end_children() -> None:
    """End everything that still runs: the bench was interrupted."""
    for child in list(_running):
        child.end()
