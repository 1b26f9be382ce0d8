"""Keeps what runs came to, by campaign, in a file of the repository."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.faults.campaigns import CAMPAIGNS
from tests.faults.run import Outcome

RESULTS_FILE = Path(__file__).parent / "results.json"

_ORDER = [campaign.name for campaign in CAMPAIGNS]


def read(path: Path = RESULTS_FILE) -> list[Outcome]:
    """Read every run, in the order of the campaigns; none where there is no file."""
    if not path.exists():
        return []
    return [Outcome(**run) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def write(runs: Iterable[Outcome], path: Path = RESULTS_FILE) -> None:
    """Write runs, in the order of the campaigns and of their seeds."""
    ordered = sorted(runs, key=lambda run: (_ORDER.index(run.campaign), run.seed))
    path.write_text(json.dumps({"runs": [asdict(run) for run in ordered]}, indent=1) + "\n", encoding="utf-8")


def put(run: Outcome, path: Path = RESULTS_FILE, *, add: bool = False) -> None:
    """Put a run in the place of its campaign's, or beside them."""
    kept = [
        other
        for other in read(path)
        if other.campaign != run.campaign or (add and (other.seed, other.scale) != (run.seed, run.scale))
    ]
    write([*kept, run], path)
