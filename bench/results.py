"""What was measured, as `bench/results.json` keeps it: every row with every round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from bench.statistics import Spread, ratio_of, spread_of

ROOT = Path(__file__).parent.parent
RESULTS_FILE = ROOT / "bench" / "results.json"
#: Where `bench-quick` and single rows leave their rounds; git does not see it.
SCRATCH_FILE = ROOT / "bench" / "scratch" / "results.json"

Relation = Literal[">=", "<="]


class Goal(msgspec.Struct, frozen=True):
    """What a row shall reach: `numerator` over the sum of `denominators` (itself without any), in each round."""

    label: str
    relation: Relation
    limit: float
    denominators: tuple[str, ...] = ()
    numerator: str = "boost"

    def measured(self, rounds: Sequence[dict[str, float]]) -> Spread | None:
        """Return what was measured of it; None when the rounds do not hold it."""
        return ratio_of(rounds, self.numerator, self.denominators)

    def met(self, rounds: Sequence[dict[str, float]]) -> bool | None:
        """Tell whether the median reaches it; None when it was not measured."""
        measured = self.measured(rounds)
        if measured is None:
            return None
        return measured.median >= self.limit if self.relation == ">=" else measured.median <= self.limit


class Measured(msgspec.Struct, frozen=True):
    """When and how a row was measured: UTC time, mode, git commit, and how long one measurement took (seconds)."""

    at: str
    mode: str
    commit: str
    seconds: float


class Row(msgspec.Struct):
    """One figure. `rounds` hold values by name: `boost` is the figure, the others are its ceilings.

    `labels` say what each name stands for, `details` hold what else was found on the way.
    """

    id: str
    group: str
    title: str
    unit: str
    rounds: list[dict[str, float]]
    goals: list[Goal]
    labels: dict[str, str]
    details: dict[str, Any] = {}
    measured: Measured | None = None

    def spread(self, name: str = "boost") -> Spread | None:
        """Return median, smallest and largest of a value over the rounds."""
        return spread_of(self.rounds, name)

    @property
    def short(self) -> bool:
        """Tell whether it misses a goal."""
        return any(goal.met(self.rounds) is False for goal in self.goals)


class Results(msgspec.Struct):
    """All rows, with the machine and the versions that each mode was last run on."""

    rows: list[Row] = []
    runs: dict[str, dict[str, Any]] = {}

    def with_rows(self, rows: Iterable[Row]) -> Results:
        """Return these results with some rows put in place of those of the same id; order stays."""
        fresh = {row.id: row for row in rows}
        kept = [fresh.pop(row.id, row) for row in self.rows]
        return Results([*kept, *fresh.values()], dict(self.runs))


def read_results(path: Path = RESULTS_FILE) -> Results:
    """Read results; nothing measured yet where there is no file."""
    if not path.exists():
        return Results()
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write_results(results: Results, path: Path = RESULTS_FILE) -> None:
    """Write results as JSON that a person can read and git can compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
