"""Progress says "caught up" only when nothing is left, and the oldest time otherwise."""

from __future__ import annotations

import datetime as dt

from agents.progress import ConsumerProgress
from agents.sweeper import ORDER_SLACK_SECONDS, passed_before
from db.workers import Progress

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LONG_AGO = dt.datetime.fromtimestamp(0, dt.UTC)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def test_the_oldest_message_in_hand_counts() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 0, at(20))
    progress.took("raw", 0, 1, at(10))
    assert progress.position("raw", 0, end=2) == at(10)
    assert progress.in_hand == 2


def test_caught_up_when_everything_is_acknowledged() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 0, at(20))
    progress.acknowledged("raw", 0, 0)
    assert progress.position("raw", 0, end=1) is None
    assert progress.in_hand == 0


def test_messages_not_taken_yet_are_behind_the_last_one_passed() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 0, at(20))
    progress.acknowledged("raw", 0, 0)
    assert progress.position("raw", 0, end=3) == at(20)


def test_nothing_known_means_the_beginning_of_time() -> None:
    assert ConsumerProgress().position("raw", 0, end=3) == LONG_AGO


def test_a_committed_or_empty_partition_is_caught_up() -> None:
    progress = ConsumerProgress()
    assert progress.position("raw", 0, end=0) is None
    progress.observe("raw", 0, committed=3, beginning=0, end=3)
    assert progress.position("raw", 0, end=3) is None
    progress.observe("raw", 1, committed=None, beginning=100, end=100)
    assert progress.position("raw", 1, end=100) is None


def test_a_malformed_message_in_hand_is_not_caught_up() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 0, None)
    assert progress.position("raw", 0, end=0) == LONG_AGO


def test_nothing_is_committed_over_a_message_that_was_dropped() -> None:
    progress = ConsumerProgress()
    for offset in (0, 1, 3, 4):
        progress.took("raw", 0, offset, at(offset))
        progress.acknowledged("raw", 0, offset)
    assert progress.committable("raw", 0, None) == 2
    assert progress.committable("raw", 0, 2) is None
    assert progress.position("raw", 0, end=5) == LONG_AGO
    seen = [progress.observe("raw", 0, committed=2, beginning=0, end=5) for _ in range(4)]
    assert seen == [None, None, None, 2]
    progress.took("raw", 0, 2, at(2))
    assert progress.observe("raw", 0, committed=2, beginning=0, end=5) is None
    progress.acknowledged("raw", 0, 2)
    assert progress.committable("raw", 0, 2) == 5
    assert progress.position("raw", 0, end=5) is None


def test_a_message_out_of_order_is_no_hole_while_the_first_is_in_hand() -> None:
    progress = ConsumerProgress()
    progress.took("raw", 0, 0, at(0))
    progress.took("raw", 0, 1, at(1))
    progress.acknowledged("raw", 0, 1)
    for _ in range(3):
        assert progress.observe("raw", 0, committed=None, beginning=0, end=2) is None
    assert progress.committable("raw", 0, None) is None


def test_the_last_message_of_a_partition_that_was_dropped_is_read_again() -> None:
    """Nothing comes after it, so nothing but its absence tells."""
    progress = ConsumerProgress()
    for offset in (0, 1):
        progress.took("raw", 0, offset, at(offset))
        progress.acknowledged("raw", 0, offset)
    seen = [progress.observe("raw", 0, committed=2, beginning=0, end=3) for _ in range(4)]
    assert seen == [None, None, None, 2]


def test_a_frontier_that_went_on_while_the_broker_answered_is_no_new_topic() -> None:
    progress = ConsumerProgress()
    for offset in range(5):
        progress.took("raw", 0, offset, at(offset))
        progress.acknowledged("raw", 0, offset)
    progress.observe("raw", 0, committed=None, beginning=0, end=3, known=2)
    assert progress.committable("raw", 0, None) == 5


def test_a_topic_made_anew_starts_again() -> None:
    progress = ConsumerProgress()
    progress.observe("raw", 0, committed=500, beginning=0, end=500)
    progress.observe("raw", 0, committed=None, beginning=0, end=1, known=progress.frontier("raw", 0))
    assert progress.position("raw", 0, end=1) == LONG_AGO


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


def test_what_a_topic_held_that_was_made_anew_is_gone_and_it_is_read_from_its_beginning() -> None:
    progress = ConsumerProgress()
    for offset in range(5):
        progress.took("raw", 0, offset, at(offset))
        progress.acknowledged("raw", 0, offset)
    assert progress.observe("raw", 0, committed=5, beginning=0, end=5, known=5) is None
    assert progress.made_anew == set()
    assert progress.observe("raw", 0, committed=5, beginning=0, end=2, known=5) == 0
    assert progress.made_anew == {("raw", 0)}
    assert progress.frontier("raw", 0) == 0
    assert progress.committable("raw", 0, None) is None


def test_a_topic_made_anew_is_read_from_its_beginning() -> None:
    progress = ConsumerProgress()
    progress.observe("raw", 0, committed=26, beginning=0, end=26)
    assert progress.observe("raw", 0, committed=None, beginning=0, end=3, known=26) == 0
    assert progress.frontier("raw", 0) == 0
    assert progress.position("raw", 0, end=3) == LONG_AGO
