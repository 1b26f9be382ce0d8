"""Runs a ceiling that is a program of its own, and reads the line of JSON that it prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from bench.children import Child
from bench.errors import BenchError

_LONGEST_SECONDS = 900.0

T = TypeVar("T")


class Program:
    """A module of `bench.ceilings` that runs beside the bench; `result` waits for its line of JSON."""

    def __init__(self, module: str, arguments: Sequence[object]) -> None:
        self._child = Child(module, [sys.executable, "-m", f"bench.ceilings.{module}", *arguments])

    def result(self, answer: type[T]) -> T:
        """Wait for the end and return what it printed.

        Raises:
            BenchError: It failed; the message holds what it wrote.
        """
        lines = self._child.output(_LONGEST_SECONDS).strip().splitlines()
        try:
            return msgspec.json.decode(lines[-1] if lines else "", type=answer)
        except msgspec.DecodeError as error:
            raise BenchError(f"{self._child.name} printed no result: {lines[-1:]} ({error})") from error


def run_program(module: str, arguments: Sequence[object], answer: type[T]) -> T:
    """Run a ceiling and return what it measured."""
    return Program(module, arguments).result(answer)
