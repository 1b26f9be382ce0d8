"""Adds up what a batch of settled events says: counters, and sightings of end users.

The events of a batch are many and what they add to are few, so the loops here keep to plain tuples and dicts: a
dataclass or a Decimal per event took a quarter of a worker's time (docs/adr/0011).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from agents.registry import Registry
from boost_streams.events import Event
from boost_streams.outcomes import NO_AMOUNT, Bucket, Count, EndUserSeen, Outcome, Processed, bucket_start
from db.end_users import Sighting, trait_version
from db.rollups import Addition, RollupKey, Source

_PER_HOUR = "events_per_hour"


class Settled(msgspec.Struct, frozen=True, gc=False):
    """One event with what its handler said of it."""

    event: Event
    outcome: Outcome


class _Starts:
    """The starts of hours and days, each made once per batch: events that lie together share them."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: dict[int, dt.datetime] = {}

    def of(self, occurred_at: dt.datetime) -> dt.datetime:
        """Return what `bucket_start` does."""
        if occurred_at.tzinfo is not dt.UTC:
            return bucket_start(occurred_at, self._bucket)
        number = occurred_at.toordinal()
        if self._bucket == "hour":
            number = number * 24 + occurred_at.hour
        start = self._known.get(number)
        if start is None:
            start = self._known[number] = bucket_start(occurred_at, self._bucket)
        return start


class Effects:
    """Adds up what a batch says, a part of it at a time: counters of its handlers, and totals by type and status.

    Counters of handlers carry the event type, the handler and its version; totals are nobody's.

    An event in `were_failed` was counted as failed before it was retried: that is taken back.
    """

    def __init__(self, registry: Registry, were_failed: Collection[UUID] = ()) -> None:
        self._registry = registry
        self._were_failed = were_failed
        #: Projects by their ids as numbers: `UUID` hashes and compares in Python, several times per event.
        self._projects: dict[int, UUID] = {}
        self._totals: dict[tuple[Any, ...], list[Any]] = {}
        self._per_hour: dict[tuple[int, dt.datetime, str, str], int] = defaultdict(int)
        self._hours, self._days = _Starts("hour"), _Starts("day")
        self._seen: dict[tuple[UUID, str], Sighting] = {}

    def add(self, part: Sequence[Settled]) -> None:
        """Add a few events of the batch."""
        totals, per_hour, hours, days = self._totals, self._per_hour, self._hours, self._days
        projects = self._projects
        for settled in part:
            event, outcome = settled.event, settled.outcome
            project, occurred_at = event.project_id.int, event.occurred_at
            projects[project] = event.project_id
            done = isinstance(outcome, Processed)
            hour = hours.of(occurred_at)
            per_hour[project, hour, event.event_type, "processed" if done else "failed"] += 1
            if self._were_failed and event.id in self._were_failed:
                per_hour[project, hour, event.event_type, "failed"] -= 1
            if isinstance(outcome, Processed):
                for effect in outcome.effects:
                    if isinstance(effect, Count):
                        start = days.of(occurred_at) if effect.bucket == "day" else hours.of(occurred_at)
                        _add(totals, (project, effect.metric, start, effect.dimensions, event.event_type), effect)
                    else:
                        self._see(event, effect)

    def additions(self) -> dict[RollupKey, Addition]:
        """Return the counters with what is to be added to each."""
        additions = self._with_sources()
        for (project, hour, event_type, status), count in self._per_hour.items():
            additions[RollupKey(self._projects[project], _PER_HOUR, hour, (event_type, status))] = (count, NO_AMOUNT)
        return additions

    def _with_sources(self) -> dict[RollupKey, Addition]:
        sources: dict[str, Source] = {}
        additions: dict[RollupKey, Addition] = {}
        for (project, metric, start, dimensions, event_type), (count, amount) in self._totals.items():
            source = sources.get(event_type)
            if source is None:
                handler = self._registry.handler_of(event_type)
                source = sources[event_type] = Source(event_type, handler.name, handler.version)
            additions[RollupKey(self._projects[project], metric, start, dimensions, source)] = (count, amount)
        return additions

    def sightings(self) -> list[Sighting]:
        """Return what the batch says about end users, one sighting per user."""
        return list(self._seen.values())

    def _see(self, event: Event, effect: EndUserSeen) -> None:
        when = event.occurred_at
        sighting = self._seen.setdefault(
            (event.project_id, effect.user_id), Sighting(event.project_id, effect.user_id, when, when)
        )
        sighting.first_seen_at = min(sighting.first_seen_at, when)
        sighting.last_seen_at = max(sighting.last_seen_at, when)
        if effect.signed_up:
            sighting.signed_up_at = min(sighting.signed_up_at or when, when)
        sighting.logins += effect.logged_in
        version = trait_version(when, event.id, self._registry.handler_of(event.event_type).version)
        for name, value in effect.traits.items():
            sighting.set_trait(name, value, version)


def effects_of(batch: Sequence[Settled], registry: Registry, were_failed: Collection[UUID] = ()) -> Effects:
    """Add up a whole batch at once."""
    effects = Effects(registry, were_failed)
    effects.add(batch)
    return effects


def settled_by_type(additions: Mapping[RollupKey, Addition]) -> dict[tuple[UUID, str, bool], int]:
    """Return how many events the totals count, by project, type and whether they were processed."""
    counts: dict[tuple[UUID, str, bool], int] = defaultdict(int)
    for key, (count, _) in additions.items():
        if key.metric == _PER_HOUR and key.source is None:
            event_type, status = key.dimensions
            counts[key.project_id, event_type, status == "processed"] += count
    return counts


def counted_again(effects: Effects) -> dict[RollupKey, Addition]:
    """Return the counters of events that settled before; totals have them already."""
    return {key: added for key, added in effects.additions().items() if key.source is not None}


def _add(totals: dict[tuple[Any, ...], list[Any]], key: tuple[Any, ...], effect: Count) -> None:
    """Add one effect; what is no number raises here, so that it fails its own event."""
    total = totals.get(key)
    if total is None:
        totals[key] = [effect.count + 0, NO_AMOUNT + effect.amount]
        return
    total[0] += effect.count
    if effect.amount is not NO_AMOUNT:
        total[1] += effect.amount
