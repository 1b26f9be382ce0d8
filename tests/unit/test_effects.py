"""Adding up a batch gives what adding its events one by one gives."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.effects import Settled, effects_of
from agents.handlers import load_registry
from boost_streams.events import Event
from boost_streams.outcomes import Count, EndUserSeen, Failed, Outcome, Processed, bucket_start

BERLIN = dt.timezone(dt.timedelta(hours=2))
REGISTRY = load_registry()
PROJECTS = (UUID(int=1), UUID(int=2))
times = st.datetimes(
    dt.datetime(2025, 12, 31, 20), dt.datetime(2026, 1, 1, 4), timezones=st.sampled_from([dt.UTC, BERLIN])
)
counts = st.builds(
    Count,
    metric=st.sampled_from(["views", "revenue"]),
    dimensions=st.sampled_from([("a",), ("a", "b"), ()]),
    bucket=st.sampled_from(["hour", "day"]),
    count=st.integers(0, 3),
    amount=st.sampled_from([Decimal(0), Decimal("0.10"), Decimal("3")]),
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.lists(counts | st.just(EndUserSeen("u-1")), max_size=3).map(lambda effects: Processed(tuple(effects))),
    st.just(Failed("bad", None, "no")),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Settled]:
    return [
        Settled(Event(UUID(int=n), draw(st.sampled_from(PROJECTS)), draw(st.sampled_from("xy")), when, when, {}), said)
        for n, (when, said) in enumerate(draw(st.lists(st.tuples(times, outcomes), max_size=30)))
    ]


@settings(max_examples=200, deadline=None)
@given(batch=batches(), were_failed=st.sets(st.integers(0, 5).map(lambda n: UUID(int=n))))
def test_additions_are_a_fold_over_the_events(batch: list[Settled], were_failed: set[UUID]) -> None:
    expected: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    for settled in batch:
        event, outcome = settled.event, settled.outcome
        hour = bucket_start(event.occurred_at, "hour")
        status = "processed" if isinstance(outcome, Processed) else "failed"
        expected[event.project_id, "events_per_hour", hour, (event.event_type, status)][0] += 1
        if event.id in were_failed:
            expected[event.project_id, "events_per_hour", hour, (event.event_type, "failed")][0] -= 1
        for effect in outcome.effects if isinstance(outcome, Processed) else ():
            if isinstance(effect, Count):
                start = bucket_start(event.occurred_at, effect.bucket)
                total = expected[event.project_id, effect.metric, start, effect.dimensions]
                total[0] += effect.count
                total[1] += effect.amount
    added_up: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    for key, (count, amount) in effects_of(batch, REGISTRY, were_failed).additions().items():
        assert (key.source is None) == (key.metric == "events_per_hour")
        added_up[key[:4]][0] += count
        added_up[key[:4]][1] += amount
    assert added_up == expected


@pytest.mark.parametrize("wrong", [Count("m", ("a",), amount=1.5), Count("m", ("a",), count=None)])  # type: ignore[arg-type]
def test_what_is_no_number_raises(wrong: Count) -> None:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(TypeError):
        effects_of([Settled(Event(UUID(int=1), UUID(int=2), "x", now, now, {}), Processed((wrong,)))], REGISTRY)
