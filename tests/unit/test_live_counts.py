"""The live view adds up, keeps the last minutes and bounds the number of types."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from boost_streams.records import SettledCount, SettledDeltas
from tables.live_counts import MINUTES, MOST_TYPES, OTHER, Counts, add_deltas

T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def deltas(*counts: tuple[str, int, int, int]) -> SettledDeltas:
    return SettledDeltas(
        UUID(int=1),
        T0,
        [SettledCount(name, T0 + dt.timedelta(minutes=minute), done, bad) for name, minute, done, bad in counts],
    )


def test_counts_add_up() -> None:
    counts: Counts = {}
    counts = add_deltas(counts, deltas(("a", 0, 2, 1)))
    before = {minute: dict(types) for minute, types in counts.items()}
    after = add_deltas(counts, deltas(("a", 0, 1, 0), ("b", 1, 0, 4)))
    assert after == {"2026-01-01T00:00Z": {"a": [3, 1]}, "2026-01-01T00:01Z": {"b": [0, 4]}}
    assert counts == before


def test_old_minutes_leave() -> None:
    counts: Counts = {}
    for minute in range(MINUTES + 5):
        counts = add_deltas(counts, deltas(("a", minute, 1, 0)))
    assert len(counts) == MINUTES
    assert min(counts) == "2026-01-01T00:05Z"


def test_many_types_count_as_other() -> None:
    counts = add_deltas({}, deltas(*((f"t{n}", 0, 1, 0) for n in range(MOST_TYPES + 7))))
    (types,) = counts.values()
    assert len(types) == MOST_TYPES + 1
    assert types[OTHER] == [7, 0]
