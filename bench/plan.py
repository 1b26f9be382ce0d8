"""Which groups of rows run in which mode, and how much each measures."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from bench.rows import (
    backlog,
    batch,
    dead_rows,
    end_to_end,
    kafka_return,
    large_table,
    latency,
    memory,
    neighbour,
    parts,
    settle_time,
    single,
    snapshot,
    two_workers,
    wal,
)
from bench.run import Effort

#: In the order of the table. A later group may use what an earlier one found (the maximum rate).
GROUPS: tuple[ModuleType, ...] = (
    single,
    batch,
    end_to_end,
    backlog,
    latency,
    settle_time,
    wal,
    two_workers,
    neighbour,
    dead_rows,
    parts,
    snapshot,
    kafka_return,
    large_table,
    memory,
)

FULL: Mapping[str, Effort] = {
    "single": Effort(rounds=5, seconds=2),
    "batch": Effort(rounds=5, seconds=3),
    "end_to_end": Effort(rounds=5, seconds=12),
    "backlog": Effort(rounds=5, seconds=0, events=200_000),
    "p99": Effort(rounds=5, seconds=5),
    "settle_time": Effort(rounds=5, seconds=5),
    "wal": Effort(rounds=5, seconds=3),
    "two_workers": Effort(rounds=5, seconds=5),
    "neighbour": Effort(rounds=5, seconds=5),
    "dead_rows": Effort(rounds=1, seconds=0, events=1_000_000),
    "parts": Effort(rounds=3, seconds=5),
}
QUICK: Mapping[str, Effort] = {
    "single": Effort(rounds=1, seconds=1),
    "batch": Effort(rounds=1, seconds=1),
    "end_to_end": Effort(rounds=1, seconds=3),
    "backlog": Effort(rounds=1, seconds=0, events=40_000),
}
LARGE: Mapping[str, Effort] = {
    "snapshot": Effort(rounds=5, seconds=60),
    "kafka_return": Effort(rounds=3, seconds=8, events=400_000),
    "large_table": Effort(rounds=5, seconds=0, events=10_000_000),
    "memory": Effort(rounds=1, seconds=0, events=5_000_000),
}
MODES: Mapping[str, Mapping[str, Effort]] = {"full": FULL, "quick": QUICK, "large": LARGE}


def groups_of(mode: str) -> list[ModuleType]:
    """Return the groups of a mode, in the order of the table."""
    return [group for group in GROUPS if group.NAME in MODES[mode]]


def all_row_ids() -> list[str]:
    """Return the ids of all rows."""
    return [row_id for group in GROUPS for row_id in group.ROWS]


def effort_for(group: str, mode: str) -> Effort:
    """Return the effort of a group in a mode; that of the mode that has it when this one does not."""
    for candidate in (mode, "full", "large", "quick"):
        if group in MODES[candidate]:
            return MODES[candidate][group]
    raise KeyError(group)
