"""CPU time, memory and disk of processes and folders, as Linux's `/proc` and the file system tell."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Seconds of CPU that a process has used, and those of its children that have ended."""

    parent: int
    own: float
    ended_children: float


def read_times(pid: int) -> ProcessTimes | None:
    """Return the CPU times of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name, in brackets, may hold anything
    user, system, children_user, children_system = (int(ticks) / _TICKS for ticks in fields[11:15])
    return ProcessTimes(int(fields[1]), user + system, children_user + children_system)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes have used so far, all their threads together."""
    return sum(times.own for times in map(read_times, pids) if times)


def tree_cpu_seconds(root: int) -> float:
    """Return the CPU seconds of a process, of its children that run, and of those that have ended.

    For PostgreSQL: the postmaster and one generation of backends and background workers.
    """
    everything = {int(entry): read_times(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    own = everything.get(root)
    if own is None:
        return 0.0
    children = sum(times.own for times in everything.values() if times and times.parent == root)
    return own.own + own.ended_children + children


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds in RAM (bytes); 0 when there is none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def folder_bytes(folder: Path, prefix: str = "") -> int:
    """Return the size (bytes) of what lies in the sub-folders of `folder` whose names begin with `prefix`.

    Kafka keeps a sub-folder per partition. Index files are made large ahead and are sparse: what counts is what the
    file system has given out.
    """
    total = 0
    for part in folder.glob(f"{prefix}*"):
        for path in part.rglob("*.log"):
            total += path.stat().st_size
    return total
