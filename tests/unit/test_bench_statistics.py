"""Ratios are taken within a round; the median of the rounds is what counts."""

from __future__ import annotations

import os

import pytest

from bench.processes import cpu_seconds, folder_bytes, read_times, resident_bytes, tree_cpu_seconds
from bench.statistics import Spread, percentile, ratio_of, slope, spread_of

_ROUNDS = [
    {"boost": 50.0, "faust": 100.0, "commit": 0.0},
    {"boost": 10.0, "faust": 12.5, "commit": 0.0},  # the machine was busy: both are slow, the ratio is not
    {"boost": 60.0, "faust": 100.0, "commit": 20.0},
]


def test_a_disturbed_round_does_not_move_the_ratio() -> None:
    assert ratio_of(_ROUNDS, "boost", ["faust"]) == Spread(0.6, 0.5, 0.8)


def test_several_ceilings_are_added_up() -> None:
    assert ratio_of(_ROUNDS, "boost", ["faust", "commit"]) == Spread(0.5, 0.5, 0.8)


def test_without_a_ceiling_it_is_the_value() -> None:
    assert ratio_of(_ROUNDS, "boost", []) == spread_of(_ROUNDS, "boost") == Spread(50.0, 10.0, 60.0)


def test_what_was_not_measured_has_no_spread() -> None:
    assert spread_of(_ROUNDS, "aiohttp") is None
    assert ratio_of(_ROUNDS, "boost", ["aiohttp"]) is None
    assert ratio_of([{"boost": 1.0, "faust": 0.0}], "boost", ["faust"]) is None
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]

    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_slope_is_that_of_the_line_that_fits_best() -> None:
    assert slope([(0, 10), (1, 12), (2, 14)]) == pytest.approx(2.0)
    assert slope([(1, 5)]) == slope([]) == slope([(1, 5), (1, 9)]) == 0.0


def test_a_process_knows_its_times_and_its_memory() -> None:
    own = read_times(os.getpid())

    assert own is not None
    assert own.parent == os.getppid()
    assert cpu_seconds([os.getpid()]) >= own.own
    assert tree_cpu_seconds(os.getpid()) >= own.own
    assert resident_bytes(os.getpid()) > 1_000_000


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert read_times(2**30) is None
    assert cpu_seconds([2**30]) == resident_bytes(2**30) == tree_cpu_seconds(2**30) == 0


def test_topics_are_as_large_as_their_logs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, size in (("web.raw-events-0", 100), ("web.raw-events-1", 20), ("other.raw-events-0", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "00000.log").write_bytes(b"x" * size)
        (tmp_path / name / "00000.index").write_bytes(b"x" * 1000)

    assert folder_bytes(tmp_path, "web.") == 120
