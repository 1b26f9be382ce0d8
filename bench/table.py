"""Prints rows as a table in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results import Goal, Row


def figure(value: float) -> str:
    """Write a number with as many digits as it deserves."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2e}"


def verdict(goal: Goal, row: Row) -> str:
    """Write what was measured of a goal, and whether it is met."""
    measured = goal.measured(row.rounds)
    if measured is None:
        return "not measured"
    sign = "≥" if goal.relation == ">=" else "≤"
    met = "met" if goal.met(row.rounds) else "short"
    return f"{figure(measured.median)} {goal.label} (goal {sign} {goal.limit:,g}): {met}"


def as_text(rows: Sequence[Row]) -> str:
    """Return a table of the medians, one line per row, and a line per goal below it."""
    lines = []
    for row in rows:
        spread = row.spread()
        value = "–" if spread is None else f"{figure(spread.median)} {row.unit}"
        lines.append(f"{row.id:24} {value:>22}  {row.title}")
        lines += [f"{'':49}{verdict(goal, row)}" for goal in row.goals]
    return "\n".join(lines)
