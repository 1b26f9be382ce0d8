"""A worker that settles far more than it takes in rests; one that keeps up, or takes nothing in, does not."""

from __future__ import annotations

import pytest

from boost_streams.giving_way import LONGEST_REST_SECONDS, REST_FACTOR, WINDOW_SECONDS, GivingWay


class _Worker:
    """A worker's counts, window by window."""

    def __init__(self) -> None:
        self.now = 0.0
        self.giving_way = GivingWay(lambda: self.now)

    def window(self, taken_in: int, settled: int) -> float:
        """Count, let the window pass, and return the rest after a hundredth of a second."""
        self.giving_way.took_in(taken_in)
        self.giving_way.settled(settled)
        self.now += WINDOW_SECONDS
        return self.giving_way.rest_after(0.01)


@pytest.mark.parametrize(
    ("taken_in", "settled", "rests"),
    [
        (0, 0, False),
        (0, 10_000, False),
        (100, 100, False),
        (100, 400, False),
        (100, 401, True),
        (100, 5_000, True),
        (5_000, 100, False),
    ],
)
def test_it_rests_while_it_catches_up(taken_in: int, settled: int, rests: bool) -> None:
    assert _Worker().window(taken_in, settled) == (pytest.approx(REST_FACTOR * 0.01) if rests else 0.0)


def test_each_window_counts_for_itself() -> None:
    worker = _Worker()
    assert worker.window(100, 5_000) > 0
    assert worker.window(100, 100) == 0
    assert worker.window(100, 5_000) > 0
    assert worker.window(0, 0) == 0


def test_within_a_window_nothing_changes() -> None:
    worker = _Worker()
    worker.window(100, 5_000)
    worker.giving_way.took_in(1_000)
    assert worker.giving_way.rest_after(0.01) > 0


def test_no_rest_is_longer_than_the_longest() -> None:
    worker = _Worker()
    worker.window(1, 5_000)
    assert worker.giving_way.rest_after(60.0) == LONGEST_REST_SECONDS


@pytest.mark.parametrize(("taken_in", "settled"), [(10, 500), (500, 10)])
def test_it_knows_how_many_events_a_second_were_taken_in_or_settled(taken_in: int, settled: int) -> None:
    worker = _Worker()
    worker.window(taken_in, settled)
    assert worker.giving_way.events_per_second() == pytest.approx(500 / WINDOW_SECONDS)
    worker.now += 2 * WINDOW_SECONDS
    assert worker.giving_way.events_per_second() == 0.0
