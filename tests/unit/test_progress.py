"""Progress says "caught up" only when nothing is left, and the oldest time otherwise."""

from __future__ import annotations

import datetime as dt

from agents.progress import ConsumerProgress
from agents.sweeper import ORDER_SLACK_SECONDS, passed_before
from db.workers import Progress

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def position(progress: ConsumerProgress, *, committed: int = 0, beginning: int = 0, end: int) -> dt.datetime | None:
    return progress.position("raw", 0, committed=committed, beginning=beginning, end=end)


def test_the_oldest_message_in_hand_counts() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 5, at(20))
    progress.took("raw", 0, 6, at(10))
    assert position(progress, end=7) == at(10)
    assert progress.in_hand == 2


def test_caught_up_when_everything_is_acknowledged() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 5, at(20))
    progress.acknowledged("raw", 0, 5)
    assert position(progress, end=6) is None
    assert progress.in_hand == 0


def test_messages_not_taken_yet_are_behind_the_last_one_passed() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 5, at(20))
    progress.acknowledged("raw", 0, 5)
    assert position(progress, end=8) == at(20)


def test_nothing_known_means_the_beginning_of_time() -> None:
    progress = ConsumerProgress()
    assert position(progress, end=3) == dt.datetime.fromtimestamp(0, dt.UTC)


def test_a_committed_or_empty_partition_is_caught_up() -> None:
    progress = ConsumerProgress()
    assert position(progress, committed=3, end=3) is None
    assert position(progress, end=0) is None
    assert position(progress, beginning=100, end=100) is None


def test_a_malformed_message_in_hand_is_not_caught_up() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 5, None)
    assert position(progress, committed=6, end=6) is not None


def test_revoked_partitions_are_forgotten() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 5, at(1))
    progress.keep_only({("raw", 1)})
    assert progress.in_hand == 0


def row(partition: int, passed: float, *, caught_up: bool, recorded: float = 100) -> Progress:
    return Progress("raw", partition, at(passed), caught_up, at(recorded))


def test_passed_before_is_the_slowest_partition() -> None:
    rows = [row(0, 90, caught_up=True), row(1, 80, caught_up=False)]
    assert passed_before(rows, ["raw"], 2, at(95)) == at(80 - ORDER_SLACK_SECONDS)


def test_passed_before_is_unknown_without_fresh_progress_of_every_partition() -> None:
    assert passed_before([row(0, 90, caught_up=True)], ["raw"], 2, at(95)) is None
    stale = [row(0, 90, caught_up=True), row(1, 90, caught_up=True, recorded=94)]
    assert passed_before(stale, ["raw"], 2, at(95)) is None
    assert passed_before(stale, ["raw"], 2, at(94)) == at(90)
