"""Tells what a worker's event loop spends its time on, from samples that py-spy takes of it."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.children import Child

#: Samples per second; each that is found in a part stands for 1 / RATE seconds of it.
RATE = 200
_GRACE_SECONDS = 30.0
_LOOP = "execute_from_commandline"
#: The parts by what appears on the stack, the first that fits.
PARTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("produce", re.compile(r"web/outbox\.py|boost_streams/producer\.py|boost_streams/publishing\.py")),
    ("http", re.compile(r"FastPath\._answer|FastConnection\._answered")),
    ("commit", re.compile(r"Committer\.|Intake\._(commit_loop|begin|gather|let_the_next_begin)")),
    ("http", re.compile(r"web/|aiohttp/")),
    ("settle", re.compile(r"agents/settlement\.py|db/settlement\.py|agents/notices\.py|agents/aggregator\.py")),
    ("handle", re.compile(r"HandlerLoop\.(handle|outcomes)")),
    ("dispatch", re.compile(r"agents/dispatcher\.py")),
    ("read", re.compile(r"agents/streams\.py|faust/|aiokafka/|boost_streams/schema\.py|mode/(?!worker\.py)")),
)


def sample(pid: int, seconds: float) -> SampleRun:
    """Begin to sample a process for so long."""
    return SampleRun(pid, seconds)


class SampleRun:
    """One run of py-spy under way; `result` waits for it."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._seconds = seconds
        self._file = Path(tempfile.mkstemp(prefix="boost-bench-", suffix=".samples")[1])
        program = Path(sys.executable).with_name("py-spy")
        options = ["--duration", max(1, round(seconds)), "--rate", RATE, "--threads", "--format", "raw"]
        self._child = Child("py-spy", [program, "record", *options, "--output", self._file, "--pid", pid])

    def result(self) -> dict[str, float]:
        """Wait for the end; return seconds of the event loop by part. What the loop itself does is in none.

        Raises:
            BenchError: py-spy is missing or may not look at the process.
        """
        try:
            self._child.output(self._seconds + _GRACE_SECONDS)
            return by_part(self._file.read_text().splitlines())
        finally:
            self._file.unlink(missing_ok=True)


def by_part(lines: Iterable[str]) -> dict[str, float]:
    """Return seconds by part, of stacks as `py-spy record --format raw` writes them: frames by `;`, then a count."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        loop, found, frames = stack.partition(_LOOP)
        if found and "MainThread" in loop and ";" in frames:
            counts[part_of(frames.partition(";")[2])] += int(count)
    return {name: counts[name] / RATE for name, _ in PARTS}


def part_of(frames: str, parts: Iterable[tuple[str, re.Pattern[str]]] = PARTS) -> str:
    """Return the part to which a stack below the event loop belongs; "" for none."""
    return next((name for name, pattern in parts if pattern.search(frames)), "")


def shares(seconds: Mapping[str, float], whole: float) -> dict[str, float]:
    """Divide a whole (µs per event) among the parts as their samples are; what the loop itself does is in each."""
    total = sum(seconds.values())
    return {f"{name}_us": whole * spent / total if total else 0.0 for name, spent in seconds.items()}
