"""The plots of `docs/performance.md`, as SVG; they need the `bench` extra (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.report import PLOTS
from bench.results import Results, Row

_BOOST, _CEILING, _SHORT = "#1f6f8b", "#9db4c0", "#c8553d"
_WIDTH = 8.0
#: Rows whose goal is a share of a ceiling: the plot shows how much of it is reached.
_SHARES = ("single", "batch", "end_to_end", "backlog")


def draw_plots(results: Results, folder: Path = PLOTS) -> list[str]:
    """Draw what the results have; return the names of the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "boost", "font.size": 9, "svg.fonttype": "none"})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (
        ("goals.svg", _draw_goals),
        ("throughput.svg", _draw_throughput),
        ("backlog.svg", _draw_backlog),
    ):
        figure = draw(results)
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None}, bbox_inches="tight")
            drawn.append(name)
    return drawn


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_goals(results: Results) -> Any:
    """Draw for each goal how much of it is reached: 1 is the goal, whichever direction is better."""
    bars = []
    for row in results.rows:
        for goal in row.goals:
            measured = goal.measured(row.rounds)
            if measured is None or not goal.limit or not measured.median:
                continue
            share = measured.median / goal.limit if goal.relation == ">=" else goal.limit / measured.median
            about = f" {goal.label}" if len(row.goals) > 1 else ""
            bars.append((f"{row.id}{about}", min(share, 3.0), bool(goal.met(row.rounds))))
    if not bars:
        return None
    figure, axes = _axes(0.6 + 0.22 * len(bars))
    names, shares, met = zip(*reversed(bars), strict=True)
    axes.barh(names, shares, color=[_BOOST if one else _SHORT for one in met])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("of the goal (1 is met; what is better than three times the goal ends at 3)")
    return figure


def _draw_throughput(results: Results) -> Any:
    """Draw figures and their ceilings, one line a row."""
    rows = [row for row in results.rows if row.group in _SHARES and row.spread()]
    if not rows:
        return None
    figure, axes = _axes(0.8 + 0.28 * len(rows))
    for number, row in enumerate(reversed(rows)):
        ceilings = {name for goal in row.goals for name in goal.denominators} - {"without"}
        for name in ("boost", *sorted(ceilings)):
            _draw_dot(axes, number, row, name)
    axes.set_yticks(range(len(rows)), [row.id for row in reversed(rows)])
    axes.set_xscale("log")
    axes.grid(axis="x", color="#eeeeee")
    axes.set_xlabel("requests or events per second, logarithmic; dark: Boost, light: its ceilings, lines: all rounds")
    return figure


def _draw_dot(axes: Any, number: int, row: Row, name: str) -> None:
    spread = row.spread(name)
    if spread is not None:
        color = _BOOST if name == "boost" else _CEILING
        axes.plot([spread.smallest, spread.largest], [number, number], color=color, linewidth=1.5)
        axes.plot(spread.median, number, "o", color=color, markersize=6)


def _draw_backlog(results: Results) -> Any:
    """Draw what was unsettled over time in the end-to-end runs."""
    rows = [row for row in results.rows if row.group == "end_to_end" and row.details.get("backlog")]
    if not rows:
        return None
    figure, axes = _axes(2.6)
    for row, color in zip(rows, (_BOOST, _SHORT), strict=False):
        for number, samples in enumerate(row.details["backlog"]):
            times, counts = [at for at, _ in samples], [count for _, count in samples]
            axes.plot(times, counts, color=color, linewidth=0.9, label=row.id if number == 0 else None)
    axes.set_xlabel("seconds of a paced run")
    axes.set_ylabel("events not settled yet")
    axes.legend(frameon=False)
    return figure
