"""Runs a ceiling that is a program of its own, and reads the line of JSON that it prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.errors import BenchError

_ROOT = Path(__file__).parent.parent.parent
_LONGEST_SECONDS = 900.0

T = TypeVar("T")


class Program:
    """A module of `bench.ceilings` that runs beside the bench; `result` waits for its line of JSON."""

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._module = module
        argv = [sys.executable, "-m", f"bench.ceilings.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(
            argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        """The process id, for its CPU time."""
        return self._process.pid

    def result(self, answer: type[T]) -> T:
        """Wait for the end and return what it printed.

        Raises:
            BenchError: It failed; the message holds what it wrote.
        """
        try:
            output, errors = self._process.communicate(timeout=_LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise BenchError(f"{self._module} did not come to an end") from None
        if self._process.returncode != 0:
            raise BenchError(f"{self._module} failed:\n{errors.strip()}")
        return msgspec.json.decode(output.strip().splitlines()[-1], type=answer)


def run_program(module: str, arguments: Sequence[object], answer: type[T]) -> T:
    """Run a ceiling and return what it measured."""
    return Program(module, arguments).result(answer)
