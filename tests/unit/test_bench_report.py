"""Results are kept by row, the document says what is short, and it fits the results that are in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import plan
from bench.__main__ import main, target_of
from bench.report import _TITLES, DOCUMENT, PLOTS, as_markdown, read_notes
from bench.results import RESULTS_FILE, SCRATCH_FILE, Goal, Measured, Results, Row, read_results, write_results
from bench.table import as_text, figure

_RUN = {
    "at": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "machine": {"processor": "P", "cores": 2, "memoryGiB": 8, "system": "Linux 6"},
    "versions": {"Python": "3.12"},
    "postgresql": {"fsync": "on"},
}


def _row(row_id: str = "batch", boost: float = 50.0) -> Row:
    return Row(
        id=row_id,
        group="batch",
        title=f"Batches of {row_id}",
        unit="events/s",
        rounds=[{"boost": boost, "copy": 100.0, "worker_us": 7.5}, {"boost": boost + 2, "copy": 100.0}],
        goals=[Goal("of COPY", ">=", 0.60, ("copy",))],
        labels={"boost": "Boost", "copy": "COPY", "worker_us": "CPU, µs per event"},
    )


def test_a_goal_is_held_against_the_median_of_the_ratios() -> None:
    row = _row(boost=59.0)

    assert row.goals[0].met(row.rounds)
    assert not row.short
    assert _row(boost=50.0).short
    assert Goal("ms", "<=", 5.0).met([{"boost": 4.0}, {"boost": 4.5}, {"boost": 90.0}])
    assert Goal("ms", "<=", 5.0).met([]) is None


def test_rows_measured_again_take_the_place_of_the_old_ones_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(Results([_row("batch"), _row("memory")], {"full": _RUN}), path)

    write_results(read_results(path).with_rows([_row("batch", boost=99.0), _row("list.type")]), path)

    again = read_results(path)
    assert [row.id for row in again.rows] == ["batch", "memory", "list.type"]
    assert again.rows[0].rounds[0]["boost"] == 99.0
    assert again.runs == {"full": _RUN}


def test_nothing_measured_yet_is_no_error(tmp_path: Path) -> None:
    assert read_results(tmp_path / "none.json").rows == []


def test_a_short_figure_stays_in_the_table_with_what_is_known_of_it() -> None:
    notes = {"batch": "COPY knows no messageId."}

    short = as_markdown(Results([_row(boost=50.0)], {"full": _RUN}), notes=notes)
    met = as_markdown(Results([_row(boost=70.0)], {"full": _RUN}), notes=notes)

    assert "| Batches of batch | 51.0 (50.0–52.0) events/s | COPY: 100.0 | 0.51 of COPY | ≥ 0.6 | **short** |" in short
    assert "0 of 1 goals are met." in short
    assert "**Batches of batch**: COPY knows no messageId." in short
    assert "COPY knows no messageId." not in met
    assert "| 0.71 of COPY | ≥ 0.6 | met |" in met
    assert "| CPU, µs per event | 7.5 |" in met


def test_rows_of_another_commit_than_their_run_are_named() -> None:
    rows = [_row("batch"), _row("batch.ids"), _row("memory")]
    for row, commit, mode in zip(rows, ("abc", "def", "def"), ("full", "full", "large"), strict=True):
        row.measured = Measured("2026-01-01T00:00:00+00:00", mode, commit, 3.0)

    written = as_markdown(Results(rows, {"full": _RUN}))

    assert [line for line in written.splitlines() if "at commit" in line] == ["- measured at commit `def`: `batch.ids`"]


def test_plots_are_shown_where_there_are_some() -> None:
    assert "![goals](performance/goals.svg)" in as_markdown(Results(), ["goals.svg"])


def test_the_terminal_shows_figure_and_verdict() -> None:
    text = as_text([_row(boost=50.0)])

    assert "51.0 events/s" in text
    assert "0.51 of COPY (goal ≥ 0.6): short" in text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.456, "0.456"), (12.34, "12.3"), (98765.4, "98,765")])
def test_numbers_have_as_many_digits_as_they_deserve(value: float, text: str) -> None:
    assert figure(value) == text


def test_every_row_has_one_id_a_heading_and_a_mode_that_measures_it() -> None:
    ids = plan.all_row_ids()

    assert len(ids) == len(set(ids))
    assert {group.NAME for group in plan.GROUPS} == set(_TITLES) == set(plan.FULL) | set(plan.LARGE)
    assert set(plan.QUICK) <= set(plan.FULL)
    for mode in plan.MODES:
        assert [plan.effort_alone(group.NAME, mode).rounds > 0 for group in plan.GROUPS]


def test_every_row_is_measured_without_and_with_message_ids_each_in_one_mode() -> None:
    ids = plan.all_row_ids()
    without = [row_id for row_id in ids if not row_id.endswith(".ids")]
    assert sorted(ids) == sorted([*without, *(f"{row_id}.ids" for row_id in without)])

    for group in plan.GROUPS:
        efforts = [plan.MODES[mode][group.NAME] for mode in ("full", "large") if group.NAME in plan.MODES[mode]]
        assert sorted(ids for effort in efforts for ids in effort.message_ids) == [False, True]
        assert plan.effort_alone(group.NAME, "full").message_ids == (False, True)


def test_every_note_is_about_a_row_that_exists() -> None:
    known = {name for row_id in plan.all_row_ids() for name in (row_id, row_id.partition(".")[0])}

    assert set(read_notes()) <= known


def test_rows_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == plan.all_row_ids()
    assert main(["--only", "nothing-like-it"]) == 2


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["full"], RESULTS_FILE),
        (["large"], RESULTS_FILE),
        (["quick"], SCRATCH_FILE),
        (["--only", "batch"], SCRATCH_FILE),
        (["--only", "batch", "--keep"], RESULTS_FILE),
    ],
)
def test_only_whole_runs_and_what_is_to_be_kept_change_the_results(arguments: list[str], file: Path) -> None:
    from bench.__main__ import _parser

    assert target_of(_parser().parse_args(arguments)) == file


def test_the_document_is_what_the_results_say() -> None:
    plots = sorted(path.name for path in PLOTS.glob("*.svg"))

    assert as_markdown(read_results(), plots) == DOCUMENT.read_text(), "write it again: python -m bench --report"
