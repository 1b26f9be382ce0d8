"""How fast a backlog drains is read from samples of what is unsettled; the broker that was taken away comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.load.oha import OhaAnswer
from bench.results import Row
from bench.rows import kafka_return
from bench.site import Site
from bench.unsettled import BacklogSampler, Drain, drain_of

#: Nothing happens for two seconds, then 400 events a second more are settled than arrive.
_SAMPLES = [(0.0, 1000), (1.0, 1000), (2.0, 1000), (3.0, 600), (4.0, 200), (5.0, 15), (6.0, 10), (7.0, 20)]


def test_a_drain_begins_with_the_first_fall_and_ends_when_nearly_nothing_is_left() -> None:
    drain = drain_of(_SAMPLES, until=7.0)

    assert (drain.first, drain.began, drain.ended, drain.emptied) == (3.0, 2.0, 5.0, True)
    assert drain.rate == pytest.approx((1000 - 15) / 3)


def test_a_drain_that_lasts_longer_is_measured_to_the_end_of_the_window() -> None:
    drain = drain_of(_SAMPLES, until=4.5)

    assert (drain.began, drain.ended, drain.emptied) == (2.0, 4.0, False)
    assert drain.rate == pytest.approx(400)
    assert drain.share_of(2.5, 4.5) == 1.0


def test_what_arrives_faster_than_it_is_settled_is_taken_off() -> None:
    drain = drain_of([(0.0, 1000), (1.0, 900), (2.0, 1100), (3.0, 1300)], until=3.0)

    assert drain.rate == pytest.approx(-100)


def test_what_fell_before_the_first_look_took_the_time_since_the_beginning() -> None:
    drain = drain_of([(0.0, 1000), (0.5, 500), (1.0, 400)], until=1.0)

    assert (drain.first, drain.began) == (0.5, 0.0)
    assert drain.rate == pytest.approx(600)


@pytest.mark.parametrize(
    ("samples", "until"), [([], 9.0), ([(0.0, 10)], 9.0), ([(0.0, 10), (1.0, 10), (2.0, 12)], 9.0), (_SAMPLES, 2.5)]
)
def test_where_nothing_fell_there_is_no_drain(samples: list[tuple[float, int]], until: float) -> None:
    with pytest.raises(ValueError, match="nothing was settled"):
        drain_of(samples, until)


@pytest.mark.parametrize(
    ("ended", "emptied", "share"), [(7.0, True, 0.5), (12.0, True, 1.0), (4.0, True, 0.0), (7.0, False, 1.0)]
)
def test_a_window_that_outlasts_the_backlog_is_told(ended: float, emptied: bool, share: float) -> None:
    drain = Drain(first=2.0, began=1.0, ended=ended, rate=100.0, emptied=emptied)

    assert drain.share_of(5.0, 9.0) == pytest.approx(share)


def test_a_backlog_that_does_not_fall_ends_the_measurement() -> None:
    sampler = BacklogSampler("postgresql://nobody")
    sampler.samples.append((0.1, 1000))

    with pytest.raises(BenchError, match="none of 1000 events was settled"):
        sampler.wait_below(1000, deadline=0.0)
    sampler.samples.append((0.2, 999))
    sampler.wait_below(1000, deadline=0.0)


@pytest.mark.parametrize("message_ids", [False, True])
def test_every_value_of_a_round_has_a_label_and_every_goal_its_ceiling(message_ids: bool) -> None:
    answer = OhaAnswer(8000, 1000.0, p50_ms=5.0, p90_ms=8.0, p99_ms=20.0, max_ms=30.0)
    back = kafka_return._Return(drain_of(_SAMPLES, until=7.0), answer, share=1.0, emptied=9.0)
    drain, p99 = kafka_return._drain_row(1000, message_ids), kafka_return._p99_row(message_ids)
    drain.rounds.append(kafka_return._drain_values(kafka_return._Backlog(1000, 60_000.0, refused=0), back))
    p99.rounds.append(kafka_return._p99_values(answer, back))

    assert (drain.id, p99.id) == kafka_return.ROWS[2 * message_ids :][:2]
    for row in (drain, p99):
        assert set(row.rounds[0]) == set(row.labels)
        assert [goal.met(row.rounds) is not None for goal in row.goals] == [True]
    assert _measured(p99) == 1.0
    assert _measured(drain) == pytest.approx((1000 - 15) / 3 / kafka_return.RATE)


def _measured(row: Row) -> float | None:
    spread = row.goals[0].measured(row.rounds)
    return spread.median if spread else None


class _Broker:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, _grace: float) -> None:
        self.asked.append("stop")

    def start(self) -> None:
        self.asked.append("start")


def test_the_broker_comes_back_after_an_error_too(tmp_path: Path) -> None:
    site, broker = Site(tmp_path), _Broker()
    site.kafka = broker  # type: ignore[assignment]

    def refuse() -> None:
        with site.kafka_away():
            assert broker.asked == ["stop"]
            raise BenchError("the worker refused")

    with pytest.raises(BenchError, match="the worker refused"):
        refuse()
    assert broker.asked == ["stop", "start"]
