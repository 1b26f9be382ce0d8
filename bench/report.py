"""Writes `docs/performance.md` from `bench/results.json`: the results are the source, the document follows."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.results import ROOT, Goal, Results, Row
from bench.statistics import Spread
from bench.table import figure

DOCUMENT = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
NOTES = Path(__file__).with_name("notes.toml")

_TITLES = {
    "single": "Single-event POST",
    "batch": "Batches",
    "end_to_end": "End to end",
    "backlog": "A backlog",
    "p99": "Latency at half of the maximum rate",
    "settle_time": "From accepted to processed",
    "wal": "Write-ahead log",
    "two_workers": "Two workers",
    "neighbour": "A noisy neighbour",
    "dead_rows": "Dead rows",
    "parts": "What an event costs, by part",
    "snapshot": "A snapshot held open",
    "kafka_return": "Kafka away, and back",
    "large_table": "Ten million rows",
    "memory": "Memory",
}
_HEAD = """# Performance

What Boost does on one small machine, each figure beside the ceiling that was measured in the same minute. `make bench`
writes this page from `bench/results.json`, which has every round; the page is not edited by hand.

How to read it: a figure is the median over the rounds, with the smallest and the largest. A ratio is taken within each
round, ours and its ceiling one right after the other, and the median of these ratios is held to the goal: what disturbs
the machine disturbs both. **short** marks what misses its goal.

What runs: PostgreSQL with `fsync`, `synchronous_commit` and `full_page_writes` on, Apache Kafka with `acks=all`, Redis,
the workers and the load generator, all on the machine below, sharing its cores. An event is 350 bytes of JSON (some 38
more with a messageId), one of 20,000 in turn, of a mix of types: 80 % from pages, 5 % users, 5 % payments, 10 % unknown
types, from 10,000 users of four projects. Throughput comes from `wrk`, which keeps so many requests under way; latency
from `oha`, which sends at a fixed rate and counts from when a request was due, so that a stall is seen by all that were
due meanwhile; it takes events at random, so that with messageId one in forty to a hundred is one that came before. A
worker is under load for 25 seconds before anything is measured: a broker that was just started compiles its own code
meanwhile, for two or three times what it costs afterwards. PostgreSQL writes over log files that are there already, as
one that has run for a while does. After each round of rows that store anything the page cache is dropped: a virtual
machine whose memory its host takes back pays eight times as much for writing a page once the cache has grown by some
gigabytes, and only what stores anything pays it (`bench/page_cache.py`). Rows of listing find the cache of a server
that runs; right after it was dropped their p99 was 1.5 ms (newest) and 35 (type).
"""
_REPEAT = """## How to repeat it

```sh
make bench                              # this page but for what follows; under 20 minutes on two cores
make bench-large                        # adds what needs millions of events, more with messageId; under 75 minutes
make bench-quick                        # the first five figures, printed; about 90 seconds
make bench ARGS="--only single.c64"     # some rows, printed; --rounds and --seconds change how much is measured
```

It needs what `make test-all` needs (Java 17 or newer, Maven), `wrk` and `oha` (`make bench-tools` installs what is
missing), and some 30 GB of disk for the large rows, in the folder for temporary files or in `BENCH_DIR`. Nothing else
should run on the machine meanwhile.
"""


def write_report(results: Results, document: Path = DOCUMENT) -> None:
    """Write the document; plots are drawn by `bench.plots`."""
    document.write_text(as_markdown(results, _existing_plots()))


def as_markdown(results: Results, plots: Sequence[str] = (), notes: Mapping[str, str] | None = None) -> str:
    """Return the document.

    Args:
        results: What was measured.
        plots: The names of the plots that exist, without their folder.
        notes: What is said below short rows; by default what `bench/notes.toml` says.
    """
    notes = read_notes() if notes is None else notes
    parts = [_HEAD, *(_overview(results)), *_plot_lines(plots)]
    for group, title in _TITLES.items():
        rows = [row for row in results.rows if row.group == group]
        if rows:
            parts.append("\n".join(_section(title, rows, notes)))
    parts += [_REPEAT, "\n".join(_runs(results))]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def read_notes(path: Path = NOTES) -> dict[str, str]:
    """Read what is known of rows that are short: by id, or by the part of the id before a dot."""
    return {key: str(value) for key, value in tomllib.loads(path.read_text()).items()}


def _overview(results: Results) -> Iterator[str]:
    goals = [(row, goal) for row in results.rows for goal in row.goals]
    met = sum(1 for row, goal in goals if goal.met(row.rounds))
    yield f"{met} of {len(goals)} goals are met."


def _plot_lines(plots: Sequence[str]) -> Iterator[str]:
    for name in plots:
        yield f"![{name.removesuffix('.svg').replace('-', ' ')}](performance/{name})"


def _section(title: str, rows: Sequence[Row], notes: Mapping[str, str]) -> Iterator[str]:
    yield f"## {title}\n"
    if any(row.goals for row in rows):
        yield "| figure | Boost | beside it | measured | goal | |"
        yield "|---|---|---|---|---|---|"
        for row in rows:
            yield from _table_lines(row)
        yield ""
    yield from _details(rows)
    yield from _notes_of_short(rows, notes)


def _notes_of_short(rows: Sequence[Row], notes: Mapping[str, str]) -> Iterator[str]:
    """Write each note once, below the rows that it is about."""
    told: dict[str, list[Row]] = {}
    for row in rows:
        keys = (row.id, row.id.removesuffix(".ids"), row.id.partition(".")[0])
        note = next((notes[key] for key in keys if key in notes), None)
        if row.short and note:
            told.setdefault(note.strip(), []).append(row)
    for note, short in told.items():
        names = short[0].title if len(short) == 1 else ", ".join(f"`{row.id}`" for row in short)
        yield f"**{names}**: {note}\n"


def _table_lines(row: Row) -> Iterator[str]:
    """Write a line per goal; the figure stands in the first."""
    ours = f"{_spread(row.spread())} {row.unit}"
    ceilings = _shared_ceilings(row)
    for number, goal in enumerate(row.goals):
        first = number == 0
        beside = ", ".join(f"{row.labels.get(name, name)}: {_spread(row.spread(name))}" for name in goal.denominators)
        beside = beside or (", ".join(ceilings) if first else "")
        cells = [row.title if first else "", ours if first else "", beside, _measured(goal, row), _goal(goal)]
        yield f"| {' | '.join(cells)} | {_verdict(goal, row)} |"


def _shared_ceilings(row: Row) -> list[str]:
    """Name what was measured beside a figure whose goal is no ratio."""
    names = [name for name in ("copy", "client") if row.spread(name)]
    return [f"{row.labels.get(name, name)}: {_spread(row.spread(name))}" for name in names]


def _measured(goal: Goal, row: Row) -> str:
    measured = goal.measured(row.rounds)
    return "–" if measured is None else f"{figure(measured.median)} {goal.label}"


def _goal(goal: Goal) -> str:
    return f"{'≥' if goal.relation == '>=' else '≤'} {goal.limit:,g}"


def _verdict(goal: Goal, row: Row) -> str:
    met = goal.met(row.rounds)
    return "not measured" if met is None else "met" if met else "**short**"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.smallest == spread.largest:
        return figure(spread.median)
    return f"{figure(spread.median)} ({figure(spread.smallest)}–{figure(spread.largest)})"


def _details(rows: Sequence[Row]) -> Iterator[str]:
    """Write what else was found, a column per row: medians of the values that are neither figure nor ceiling."""
    shown = {name for row in rows for goal in row.goals for name in (goal.numerator, *goal.denominators)}
    shown |= {"copy", "client"}
    names = list(dict.fromkeys(name for row in rows for name in row.labels if name not in shown and row.spread(name)))
    if not names:
        return
    yield f"| | {' | '.join(f'`{row.id}`' for row in rows)} |"
    yield "|---" * (len(rows) + 1) + "|"
    for name in names:
        label = next(row.labels[name] for row in rows if name in row.labels)
        values = (row.spread(name) for row in rows)
        yield f"| {label} | {' | '.join(figure(value.median) if value else '' for value in values)} |"
    yield ""


def _runs(results: Results) -> Iterator[str]:
    yield "## Machine and versions\n"
    for mode, run in results.runs.items():
        machine, versions = run["machine"], run["versions"]
        command = {"full": "make bench", "large": "make bench-large"}.get(mode, mode)
        yield f"`{command}`, {run['at']}, commit `{run['commit']}`:\n"
        yield f"- {machine['processor']}, {machine['cores']} cores, {machine['memoryGiB']} GiB, {machine['system']}"
        yield "- " + ", ".join(f"{name} {version}" for name, version in versions.items())
        settings = ", ".join(f"`{name} = {value}`" for name, value in run["postgresql"].items())
        yield f"- PostgreSQL: {settings}"
        others = defaultdict(list)
        for row in results.rows:
            if row.measured and row.measured.mode == mode and row.measured.commit != run["commit"]:
                others[row.measured.commit].append(row.id)
        for commit, ids in sorted(others.items()):
            yield f"- measured at commit `{commit}`: {', '.join(f'`{row_id}`' for row_id in ids)}"
        yield ""


def _existing_plots() -> list[str]:
    return sorted(path.name for path in PLOTS.glob("*.svg"))
