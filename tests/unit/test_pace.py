"""A worker with time to spare takes and sends what comes at once; the busier it is, the further apart."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from boost_streams import pace
from boost_streams.pace import (
    BUSY_FETCH_WAIT_SECONDS,
    BUSY_SHARE,
    FETCH_WAIT_SECONDS,
    FETCHES_APART_SECONDS,
    FEW_PER_SECOND,
    IDLE_SHARE,
    LISTS_APART_SECONDS,
    MANY_PER_SECOND,
    QUIET_FETCH_WAIT_SECONDS,
    QUIET_PER_SECOND,
    SENDS_APART_SECONDS,
    WINDOW_SECONDS,
    Pace,
    busy_seconds,
)


class _Process:
    """A process whose event loop is busy for some share of its time."""

    def __init__(self) -> None:
        self.now = self.busy = 100.0
        self.rate = 2 * MANY_PER_SECOND
        self.pace = Pace(lambda: self.rate, lambda: self.now, lambda: self.busy)

    def goes_on(self, share: float, seconds: float = WINDOW_SECONDS) -> None:
        self.now += seconds
        self.busy += share * seconds


@pytest.mark.parametrize(
    ("share", "stretch"),
    [
        (0.0, 0.0),
        (IDLE_SHARE, 0.0),
        ((IDLE_SHARE + BUSY_SHARE) / 2, 0.5),
        (BUSY_SHARE, 1.0),
        (1.4, 1.0),
    ],
)
def test_it_follows_the_share_of_time_that_is_spent(share: float, stretch: float) -> None:
    process = _Process()
    process.goes_on(share)
    assert process.pace.between_lists() == pytest.approx(stretch * LISTS_APART_SECONDS)
    assert process.pace.between_fetches() == pytest.approx(stretch * FETCHES_APART_SECONDS)
    assert process.pace.between_sends() == pytest.approx(stretch * SENDS_APART_SECONDS)
    longer = stretch * (BUSY_FETCH_WAIT_SECONDS - FETCH_WAIT_SECONDS)
    assert process.pace.fetch_wait() == pytest.approx(FETCH_WAIT_SECONDS + longer)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_fetch_waits_longer_again_while_next_to_nothing_comes(share: float) -> None:
    process = _Process()
    process.rate = QUIET_PER_SECOND - 1
    process.goes_on(share)
    assert process.pace.fetch_wait() == QUIET_FETCH_WAIT_SECONDS


def test_it_is_measured_window_by_window() -> None:
    process = _Process()
    assert process.pace.between_lists() == 0.0
    process.goes_on(1.0, WINDOW_SECONDS / 2)
    assert process.pace.between_lists() == 0.0
    process.goes_on(1.0, WINDOW_SECONDS / 2)
    assert process.pace.between_lists() == LISTS_APART_SECONDS
    process.goes_on(0.0, WINDOW_SECONDS / 2)
    assert process.pace.between_lists() == LISTS_APART_SECONDS
    process.goes_on(0.0, WINDOW_SECONDS / 2)
    assert process.pace.between_lists() == 0.0


@pytest.mark.parametrize(
    ("rate", "stretch"),
    [
        (0.0, 0.0),
        (FEW_PER_SECOND, 0.0),
        ((FEW_PER_SECOND + MANY_PER_SECOND) / 2, 0.5),
        (MANY_PER_SECOND, 1.0),
    ],
)
def test_few_events_do_not_wait_however_busy_the_worker_is(rate: float, stretch: float) -> None:
    process = _Process()
    process.rate = rate
    process.goes_on(1.0)
    assert process.pace.between_lists() == pytest.approx(stretch * LISTS_APART_SECONDS)


def test_who_waits_for_a_processor_is_busy_and_who_sleeps_is_not() -> None:
    before, cpu_before = busy_seconds(), time.process_time()
    time.sleep(0.2)
    slept = busy_seconds() - before
    while time.process_time() - cpu_before < 0.2:
        pass
    assert slept < 0.15
    assert busy_seconds() - before >= 0.15


def test_where_the_system_does_not_tell_it_is_the_time_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for content in (None, "", "not numbers at all"):
        told = tmp_path / "schedstat"
        if content is not None:
            told.write_text(content)
        monkeypatch.setattr(pace, "_SCHEDULED", told)
        assert busy_seconds() == pytest.approx(time.process_time(), abs=0.1)


def test_what_it_ran_and_what_it_waited_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "schedstat"
    told.write_text("1500000000 250000000 17\n")
    monkeypatch.setattr(pace, "_SCHEDULED", told)
    assert busy_seconds() == pytest.approx(1.75)
