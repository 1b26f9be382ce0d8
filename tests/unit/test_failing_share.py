"""Which failures pause a handler: those of most projects, and not those of one, however many it has."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

import pytest

from agents.effects import Settled
from agents.failing_share import WINDOW_SECONDS, FailingShare, Verdict
from agents.handlers import load_registry
from agents.settlement import first_attempts_of
from boost_streams.events import Event
from boost_streams.outcomes import Outcome, failed, processed, try_again

NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)
REGISTRY = load_registry()
BAD = failed("invalid", "url", "on purpose")


class World:
    """One family's share, on a clock that stands still."""

    def __init__(self, limit: float = 0.5, least: int = 100, family: str = "tracking") -> None:
        self.now = 1000.0
        self.next_id = 0
        self.share = FailingShare(family, REGISTRY, limit=limit, least=least, clock=lambda: self.now)

    def settle(self, *parts: tuple[int, int, Outcome], fast: bool = True) -> Verdict | None:
        """Let projects settle events: (project, how many, what became of them)."""
        batch = []
        for project, count, outcome in parts:
            for _ in range(count):
                self.next_id += 1
                event = Event(UUID(int=self.next_id), UUID(int=project), "page_view", NOON, NOON, {})
                batch.append(Settled(event, outcome))
        return self.share.observe(batch, first_attempts_of(batch, REGISTRY) if fast else None)


@pytest.fixture(params=[True, False], ids=["added up", "counted"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_bad_deploy_fails_most_events_of_most_projects(fast: bool) -> None:
    verdict = World().settle((1, 80, BAD), (1, 20, processed()), (2, 60, BAD), (3, 50, BAD), fast=fast)
    assert verdict is not None
    assert (verdict.handler, verdict.failing, verdict.projects) == ("tracking", 190, 3)
    assert verdict.share == pytest.approx((0.8 + 1 + 1) / 3)


def test_a_tenant_that_sends_only_rubbish_has_one_voice(fast: bool) -> None:
    world = World()
    assert world.settle((1, 10_000, BAD), (2, 20, processed()), (3, 20, processed()), fast=fast) is None


def test_a_tenant_alone_is_told_from_several(fast: bool) -> None:
    verdict = World().settle((1, 10_000, BAD), (2, 1, BAD), fast=fast)
    assert verdict is not None
    assert verdict.projects == 1  # the other one's single event is no part of it


@pytest.mark.parametrize(("failing", "over"), [(50, False), (51, True)])
def test_the_limit_is_a_share(failing: int, over: bool, fast: bool) -> None:
    world = World(least=10)
    of_each = ((failing, BAD), (100 - failing, processed()))
    parts = [(project, count, outcome) for project in (1, 2) for count, outcome in of_each]
    assert (world.settle(*parts, fast=fast) is not None) is over


def test_a_few_failures_are_noise(fast: bool) -> None:
    world = World()
    assert world.settle((1, 49, BAD), (2, 50, BAD), fast=fast) is None
    assert world.settle((1, 1, BAD), fast=fast) is not None


def test_failures_are_forgotten_after_a_minute() -> None:
    world = World()
    assert world.settle((1, 60, BAD), (2, 39, BAD)) is None
    world.now += WINDOW_SECONDS + 1
    assert world.settle((1, 60, BAD), (2, 39, BAD)) is None
    world.now += WINDOW_SECONDS / 2
    assert world.settle((2, 1, BAD)) is not None


def test_what_went_well_within_the_minute_counts() -> None:
    world = World()
    for _ in range(50):
        assert world.settle((1, 10, processed()), (2, 10, processed())) is None
        world.now += 1
    assert world.settle((1, 100, BAD), (2, 100, BAD)) is None


def test_trying_again_is_no_failure() -> None:
    world = World()
    assert world.settle((1, 500, try_again("away")), (2, 500, try_again("away"))) is None
    assert world.settle((1, 60, BAD), (2, 60, BAD)) is not None


def test_after_a_reset_nothing_is_left() -> None:
    world = World()
    world.settle((1, 60, BAD), (2, 39, BAD))
    world.share.reset()
    assert world.settle((1, 1, BAD)) is None
