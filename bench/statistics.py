"""What is made of the rounds of a row: ratios per round, their median, their spread."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Round = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several values, with the smallest and the largest."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up some values.

        Raises:
            ValueError: There are none.
        """
        if not values:
            raise ValueError("no values")
        return cls(plain.median(values), min(values), max(values))


def spread_of(rounds: Sequence[Round], name: str) -> Spread | None:
    """Return the spread of one of the values over the rounds that have it; None when none has."""
    values = [one[name] for one in rounds if name in one]
    return Spread.of(values) if values else None


def ratio_of(rounds: Sequence[Round], numerator: str, denominators: Sequence[str]) -> Spread | None:
    """Return the spread of `numerator` divided by the sum of `denominators`, taken within each round.

    What disturbs the machine during a round disturbs both. Without denominators it is the value itself. Rounds that
    lack one of the values, or whose denominators are 0, are left out; None when none is left.
    """
    ratios = []
    for one in rounds:
        if numerator not in one or any(name not in one for name in denominators):
            continue
        below = sum(one[name] for name in denominators) if denominators else 1.0
        if below > 0:
            ratios.append(one[numerator] / below)
    return Spread.of(ratios) if ratios else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie: the nearest rank.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def slope(values: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line that fits (x, y) pairs best; 0 for fewer than two of them."""
    if len(values) < 2:
        return 0.0
    xs, ys = [x for x, _ in values], [y for _, y in values]
    middle_x, middle_y = plain.fmean(xs), plain.fmean(ys)
    below = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in values) / below if below else 0.0
