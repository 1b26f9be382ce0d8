"""docs/reliability.md is what the suite writes from its results file; schedules come from their seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import results
from tests.faults.campaigns import BY_NAME, CAMPAIGNS, schedule
from tests.faults.document import DOCUMENT, as_markdown
from tests.faults.run import Outcome


def _outcome(campaign: str = "kill", seed: int = 1, times: int = 100, **changes: int) -> Outcome:
    title = BY_NAME[campaign].kinds[0].title
    return Outcome(campaign, seed, 1.0, faults={title: times}, **{"events": 5000, "accepted": 4990, **changes})


def test_the_document_is_written_from_the_results_file() -> None:
    runs = results.read()

    assert DOCUMENT.read_text(encoding="utf-8") == as_markdown(runs)
    assert all(not run.problems and run.lost == run.duplicate_effects == 0 for run in runs)


def test_a_run_at_a_smaller_scale_says_how_often_of_how_many() -> None:
    assert "kill -9 of a random worker × 100 | 1 |" in as_markdown([_outcome()])
    assert "kill -9 of a random worker × 25 (of 100) | 1 |" in as_markdown([_outcome(times=25)])
    assert "Not run: terminate," in as_markdown([_outcome()])


def test_runs_of_one_campaign_add_up() -> None:
    page = as_markdown([_outcome(times=60), _outcome(seed=2, times=40, lost=3)])

    assert "kill -9 of a random worker × 100 | 1, 2 | 10,000 | 9,980 | 3 |" in page


def test_a_run_takes_the_place_of_the_last_one_of_its_campaign(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.put(_outcome("zombie"), path)
    results.put(_outcome("kill", seed=1), path)
    results.put(_outcome("kill", seed=2), path, add=True)
    assert [(run.campaign, run.seed) for run in results.read(path)] == [("kill", 1), ("kill", 2), ("zombie", 1)]

    results.put(_outcome("kill", seed=3), path)
    assert [(run.campaign, run.seed) for run in results.read(path)] == [("kill", 3), ("zombie", 1)]


@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_a_schedule_comes_from_its_seed(campaign: object) -> None:
    drawn = schedule(campaign, 7)  # type: ignore[arg-type]

    assert drawn == schedule(campaign, 7)  # type: ignore[arg-type]
    assert drawn != schedule(campaign, 8)  # type: ignore[arg-type]
    assert len(schedule(campaign, 7, scale=0.1)) <= len(drawn)  # type: ignore[arg-type]
