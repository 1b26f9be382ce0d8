"""Which groups of rows run in which mode, and how much each measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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

#: Variants of a row: events without a messageId, with one, or both.
_WITHOUT, _WITH = (False,), (True,)

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
    "backlog": Effort(rounds=5, seconds=0, events=200_000, message_ids=_WITHOUT),
    "p99": Effort(rounds=5, seconds=5, message_ids=_WITHOUT),
    "settle_time": Effort(rounds=5, seconds=5, message_ids=_WITHOUT),
    "wal": Effort(rounds=5, seconds=3),
    "two_workers": Effort(rounds=5, seconds=5, message_ids=_WITHOUT),
    "neighbour": Effort(rounds=5, seconds=5, message_ids=_WITHOUT),
    "dead_rows": Effort(rounds=1, seconds=0, events=1_000_000, message_ids=_WITHOUT),
    "parts": Effort(rounds=3, seconds=5, message_ids=_WITHOUT),
}
QUICK: Mapping[str, Effort] = {
    "single": Effort(rounds=1, seconds=1),
    "batch": Effort(rounds=1, seconds=1),
    "end_to_end": Effort(rounds=1, seconds=3),
    "backlog": Effort(rounds=1, seconds=0, events=40_000),
}
#: What needs millions of events, and those with messageId that twenty minutes have no room for.
LARGE: Mapping[str, Effort] = {
    **{name: replace(effort, message_ids=_WITH) for name, effort in FULL.items() if effort.message_ids == _WITHOUT},
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
    """Return the effort of a group in a mode, with the variants that run in it."""
    return MODES[mode][group]


def effort_alone(group: str, mode: str) -> Effort:
    """Return the effort of a group that is asked for by name: of the mode that has it, and all of its variants."""
    for candidate in (mode, "full", "large", "quick"):
        if group in MODES[candidate]:
            return replace(MODES[candidate][group], message_ids=Effort(1, 1).message_ids)
    raise KeyError(group)
