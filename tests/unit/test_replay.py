"""What a replay runs again, and at which pace."""

from __future__ import annotations

import pytest

from agents.replay import Pace, scope_of
from boost_streams.errors import Conflict
from tests.support.replays import registry


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def test_the_pace_is_kept_on_the_average() -> None:
    clock = Clock()
    pace = Pace(100, clock=clock, sleep=clock.sleep)
    for _ in range(4):
        clock.now += 0.2  # the work itself
        await pace.after(50)
    assert clock.now == pytest.approx(102.0)


async def test_lost_time_is_not_made_up_for() -> None:
    clock = Clock()
    pace = Pace(100, clock=clock, sleep=clock.sleep)
    clock.now += 60
    await pace.after(100)
    await pace.after(100)
    assert clock.now == pytest.approx(161.0)


async def test_no_rate_is_no_limit() -> None:
    clock = Clock()
    pace = Pace(0, clock=clock, sleep=clock.sleep)
    await pace.after(1_000_000)
    assert clock.slept == []


def test_a_handler_stands_for_its_types() -> None:
    scope = scope_of(registry(2), "shop", None)
    assert (scope.handler, scope.version, scope.event_types, scope.all_others) == ("shop", 2, ("buy", "refund"), False)


def test_the_default_handler_stands_for_all_that_nobody_claims() -> None:
    scope = scope_of(registry(2), "default", None)
    assert scope.all_others
    assert {"buy", "refund", "page_view"} <= set(scope.event_types)


def test_a_type_finds_its_handler() -> None:
    assert scope_of(registry(2), None, "refund").handler == "shop"
    other = scope_of(registry(2), "default", "coupon")
    assert (other.handler, other.event_types, other.all_others) == ("default", ("coupon",), False)


@pytest.mark.parametrize(
    ("handler", "event_type", "said"),
    [
        ("shop", "page_view", "taken by the handler tracking"),
        ("none", None, "no handler 'none'; there are default, shop"),
    ],
)
def test_what_does_not_fit_is_refused(handler: str, event_type: str | None, said: str) -> None:
    with pytest.raises(Conflict, match=said):
        scope_of(registry(2), handler, event_type)
