"""Writes docs/reliability.md from what the runs came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from tests.faults import results
from tests.faults.campaigns import BY_NAME, CAMPAIGNS
from tests.faults.run import Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"

_PROMISES = """# Reliability: what is promised, and what was tried against it

A 202 is a promise. This page says what it promises, and what the fault suite did to break it: processes killed, servers
stopped, networks cut, disks filled, always under load. The suite writes the page (`make test-faults`); its second half
is what came out last.

## Promises

- **An event that got a 202 is stored** in PostgreSQL, and ends `processed` or `failed`. It is never lost, whatever dies
  in whatever order, as long as PostgreSQL keeps what it committed.
- **Its effects count once**, however often it is delivered and in whatever order: counters and end users equal a fold
  over the rows of `events` in the order of `occurred_at`.
- **An event with a `messageId` is stored once**, however often it is sent, for at least `IDEMPOTENCY_DAYS`. Without
  one, an event that is sent again after a cut connection or a 503 may be stored twice: the client cannot know.
- **A bad event costs only itself.** What a handler raises on, answers wrongly or cannot store ends `failed`; a message
  that nobody can read becomes a dead letter; neighbours settle.
- **PostgreSQL away**: 503 with `Retry-After`, never a false 202. What is in hand waits and goes on by itself.
- **Kafka away**: 202 as before. What was accepted is published when it is back. **Kafka emptied**: what is not settled
  is published again from PostgreSQL.
- **Redis away**: nothing stops.
- **A worker killed or paused**: others take over what it had in hand; one that wakes up late settles nothing twice.

## The oracle

One function, `judge` in `tests/support/oracle.py`, decides after every run, once nothing is under way any more: the ids
that clients got a 202 for are the rows that are there, each ended as its handler says; counters and end users equal the
fold; no batch and no retry is left over. The client of the suite follows `Retry-After`, sends again what it got no
answer for, with the same `messageId` where the event has one (about two in three), for several projects, singly and in
batches. One event in a hundred is poison: ten kinds, from a handler that raises or whose preparation hangs to numbers
that grow sixtyfold in storage. Some requests must be refused, and nothing of them may be stored.
"""

_RUNS = """
## The last runs

Each row is one campaign: its faults, in an order and at times drawn from the seed, under load. Where a fault was made
to happen less often than the suite asks for, the row says how often of how many. *Lost* are events with a 202 that are
not stored, or never ended; *duplicate effects* are counters and end users that differ from the fold, and `messageId`s
stored twice. The waits include the faults themselves: a client that waits for a server that is away, an event behind a
broker that is stopped.

| campaign | faults | seed | events | 202s | lost | duplicate effects | longest wait for a 202 | longest until settled |
|---|---|---|---|---|---|---|---|---|
"""

_REPEAT = """
A run is repeated with `python -m tests.faults --only <campaign> --seed <seed> --scale <scale>`; `--list` prints its
schedule. `--keep` puts what comes out into this page. The ordinary tests contain a selection of a few minutes
(`tests/faults/test_selection.py`).
"""


def as_markdown(runs: Sequence[Outcome]) -> str:
    """Return the whole page."""
    rows = "\n".join(_row(name, list(group)) for name, group in groupby(runs, key=lambda run: run.campaign))
    return _PROMISES + _RUNS + rows + "\n\n" + _whole(runs) + _not_run(runs) + _REPEAT


def write_document(path: Path = DOCUMENT) -> None:
    """Write the page from the results file."""
    path.write_text(as_markdown(results.read()), encoding="utf-8")


def _row(name: str, runs: Sequence[Outcome]) -> str:
    seeds = ", ".join(str(run.seed) for run in runs)
    return (
        f"| {name} | {_faults(name, runs)} | {seeds} | {_sum(run.events for run in runs)} "
        f"| {_sum(run.accepted for run in runs)} | {_sum(run.lost for run in runs)} "
        f"| {_sum(run.duplicate_effects for run in runs)} | {max(run.longest_202 for run in runs):.1f} s "
        f"| {max(run.longest_settled for run in runs):.1f} s |"
    )


def _faults(name: str, runs: Sequence[Outcome]) -> str:
    done = Counter[str]()
    for run in runs:
        done.update(run.faults)
    asked = {kind.title: kind.times for kind in BY_NAME[name].kinds}
    return "; ".join(
        f"{title} × {count}" + (f" (of {asked[title]})" if count < asked.get(title, 0) else "")
        for title, count in done.items()
    )


def _sum(numbers: Iterable[int]) -> str:
    return f"{sum(numbers):,}"


def _whole(runs: Sequence[Outcome]) -> str:
    minutes = sum(run.seconds for run in runs) / 60
    faults = sum(count for run in runs for count in run.faults.values())
    accepted, lost = sum(run.accepted for run in runs), sum(run.lost for run in runs)
    doubled = sum(run.duplicate_effects for run in runs)
    return (
        f"Together: {faults:,} faults, {accepted:,} events with a 202, {lost:,} lost, {doubled:,} duplicate effects, "
        f"in {minutes:.0f} minutes on two cores.\n"
    )


def _not_run(runs: Sequence[Outcome]) -> str:
    missing = [campaign.name for campaign in CAMPAIGNS if campaign.name not in {run.campaign for run in runs}]
    return f"\nNot run: {', '.join(missing)}.\n" if missing else ""
