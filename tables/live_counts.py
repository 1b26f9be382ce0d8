"""Live view: how many events settled per project, type and minute. Approximate; SQL rollups hold the truth.

A Faust table keyed by project (the 16 bytes of its id), fed from `events.settled`, which is keyed the same way. Each
value maps a minute (ISO 8601 text) to a type to `[processed, failed]`, for the last `MINUTES` minutes that had events.
At-least-once delivery may count twice, and a restart of an in-memory broker forgets.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from boost_streams.records import SettledDeltas
from boost_streams.topics import LIVE_COUNTS_TABLE

#: How many minutes are kept per project.
MINUTES = 60
#: How many types are told apart per minute; the rest counts as `OTHER`.
MOST_TYPES = 100
OTHER = "(other)"

Counts = dict[str, dict[str, list[int]]]


def live_counts_table(app: Any, partitions: int) -> Any:
    """Declare the table on a Faust app."""
    return app.Table(
        LIVE_COUNTS_TABLE,
        default=dict,
        partitions=partitions,
        key_type=bytes,
        help="Settled events per project, type and minute.",
    )


def add_deltas(counts: Counts, deltas: SettledDeltas) -> Counts:
    """Return counts with one settlement added and old minutes left out. The input stays as it is."""
    merged = {minute: {name: list(pair) for name, pair in types.items()} for minute, types in counts.items()}
    for count in deltas.counts:
        types = merged.setdefault(minute_key(count.minute), {})
        name = count.event_type if count.event_type in types or len(types) < MOST_TYPES else OTHER
        pair = types.setdefault(name, [0, 0])
        pair[0] += count.processed
        pair[1] += count.failed
    newest = sorted(merged, reverse=True)[:MINUTES]
    return {minute: merged[minute] for minute in reversed(newest)}


def minute_key(minute: dt.datetime) -> str:
    """Write a minute (UTC) as the text that keys it."""
    return f"{minute.astimezone(dt.UTC):%Y-%m-%dT%H:%MZ}"
