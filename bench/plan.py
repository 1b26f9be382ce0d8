"""Which groups of rows run in which mode, and how much each measures."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from bench.rows import single
from bench.run import Effort

#: In the order of the table. A later group may use what an earlier one found (the maximum rate).
GROUPS: tuple[ModuleType, ...] = (single,)

FULL: Mapping[str, Effort] = {"single": Effort(rounds=5, seconds=3)}
QUICK: Mapping[str, Effort] = {"single": Effort(rounds=1, seconds=1)}
LARGE: Mapping[str, Effort] = {}
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
