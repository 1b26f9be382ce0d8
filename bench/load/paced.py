"""How many events a deployment settles while it takes them, without falling behind.

First a short run as fast as answers come shows what it settles meanwhile, which it can surely do, and what it accepts,
which is more than it can. Short runs at a fixed pace halve what lies between, by whether what is unsettled grows;
longer ones lower the pace where it grows after all, and raise it a little each time it held at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.deployment import Deployment
from bench.load.wrk import Requests, WrkRun
from bench.statistics import slope
from bench.unsettled import BacklogSampler

#: What is unsettled may grow by this share of what is accepted: it goes up and down by whole settlements.
_MOST_GROWTH = 0.03
#: The first part of a run, during which queues fill up to where they stay (share of its seconds).
_SETTLING_IN = 0.25
_SLOWER = 0.97
_LEAST = 0.6
FASTER = 1.05
_PROBE_SECONDS = 4.0
_MOST_TRIES = 4
#: How many short runs look for a pace.
_PROBES = 5
#: How long a worker is under load before and after it is counted what it settles (seconds).
_LEAD_SECONDS = 1.0
_ACCEPTED = "boost_events_accepted_total"
_SETTLED = "boost_events_settled_total"
_LONGEST_DRAIN_SECONDS = 600.0
#: Taking and settling at once is a little slower than one after the other.
FIRST_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Sustained:
    """One paced run: events settled per second, seconds, and what was unsettled over time (seconds, events)."""

    rate: float
    accepted: int
    seconds: float
    pace: float
    backlog: list[tuple[float, int]] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Events per second by which what is unsettled grew, after the first part of the run."""
        return slope([(at, float(count)) for at, count in self.backlog if at >= self.seconds * _SETTLING_IN])

    @property
    def holds(self) -> bool:
        """Tell whether it kept up."""
        return self.growth <= _MOST_GROWTH * self.accepted / self.seconds

    @property
    def slower(self) -> float:
        """The pace to try next when it did not: what it settled while it fell behind, and a little less."""
        return max(_LEAST * self.pace, _SLOWER * (self.accepted / self.seconds - self.growth))


def events_per_request(requests: Requests) -> int:
    """Return how many events a request carries."""
    return max(1, requests.per_request)


def settled_throughput(
    deployment: Deployment, requests: Requests, *, connections: int, seconds: float, pace: float = 0.0
) -> float:
    """Return events per second that a deployment takes and settles, the time until the last is settled included.

    Requests come as fast as they are answered, or `pace` events a second.
    """
    before = deployment.accepted()
    run = WrkRun(
        deployment.address,
        requests,
        connections=connections,
        seconds=seconds,
        requests_per_second=pace / events_per_request(requests),
    )
    took = run.result().seconds + deployment.wait_until_settled(_LONGEST_DRAIN_SECONDS)
    return (deployment.accepted() - before) / took


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """Events per second that a deployment accepts and settles while requests come as fast as they are answered."""

    accepted: float
    settled: float


def rates_under_load(deployment: Deployment, requests: Requests, *, connections: int, seconds: float) -> UnderLoad:
    """Return what a deployment accepts and settles while requests come as fast as they are answered.

    It is counted for so many seconds in the midst of the load. A run that is counted until the last is settled takes
    the time from a 202 until then for time in which nothing was done.
    """
    load = WrkRun(deployment.address, requests, connections=connections, seconds=seconds + 2 * _LEAD_SECONDS)
    time.sleep(_LEAD_SECONDS)
    began = time.monotonic()
    before = [deployment.metric(name) for name in (_ACCEPTED, _SETTLED)]
    time.sleep(seconds)
    took = time.monotonic() - began
    after = [deployment.metric(name) for name in (_ACCEPTED, _SETTLED)]
    load.result()
    deployment.wait_until_settled(_LONGEST_DRAIN_SECONDS)
    accepted, settled = (now - then for now, then in zip(after, before, strict=True))
    return UnderLoad(accepted / took, settled / took)


def run_at(deployment: Deployment, requests: Requests, *, connections: int, seconds: float, pace: float) -> Sustained:
    """Send `pace` events a second for so many seconds, and wait until the last is settled.

    The rate that is returned is what was settled: what was accepted, less what the backlog grew by once it stood.
    """
    before = deployment.accepted()
    load = WrkRun(
        deployment.address,
        requests,
        connections=connections,
        seconds=seconds,
        requests_per_second=pace / events_per_request(requests),
    )
    with BacklogSampler(deployment.url) as sampler:
        answer = load.result()
        accepted = deployment.accepted() - before
    deployment.wait_until_settled()
    run = Sustained(accepted / answer.seconds, accepted, answer.seconds, pace, sampler.samples)
    return replace(run, rate=run.rate - max(0.0, run.growth))


@dataclass(frozen=True, slots=True)
class PacedLoad:
    """A deployment with the requests it gets, and where the news goes."""

    deployment: Deployment
    requests: Requests
    connections: int
    say: Callable[[str], None]

    def run(self, pace: float, seconds: float) -> Sustained:
        """Send at a pace for so many seconds."""
        return run_at(self.deployment, self.requests, connections=self.connections, seconds=seconds, pace=pace)

    def find_pace(self, holds: float, too_fast: float) -> float:
        """Return the highest pace at which a short run held, from one that surely does and one that does not."""
        for _ in range(_PROBES):
            pace = (holds + too_fast) / 2
            if self.run(pace, _PROBE_SECONDS).holds:
                holds = pace
            else:
                too_fast = pace
        self.say(f"holds at about {holds:,.0f} events/s")
        return holds

    def sustained(self, pace: float, seconds: float) -> Sustained:
        """Run at a pace, and slower again until the backlog does not grow; return the run that held, or the last."""
        for attempt in range(_MOST_TRIES):
            run = self.run(pace, seconds)
            if run.holds or attempt == _MOST_TRIES - 1:
                return run
            self.say(f"behind by {run.growth:,.0f} events/s at {pace:,.0f} events/s: slower")
            pace = run.slower
        raise AssertionError("unreachable: the last try returns")


def send_and_settle(
    deployment: Deployment,
    requests: Requests,
    *,
    connections: int,
    pace: float,
    events: int,
    say: Callable[[str], None],
    most_seconds: float = 30.0,
) -> None:
    """Send events at a pace, in stretches, until so many more are accepted and settled."""
    wanted = deployment.accepted() + events
    while (left := wanted - deployment.accepted()) > 0:
        seconds = max(1.0, min(most_seconds, left / pace))
        run = run_at(deployment, requests, connections=connections, seconds=seconds, pace=pace)
        if not run.holds:
            pace = run.slower
        say(f"{events - max(0, wanted - deployment.accepted()):,} of {events:,} events")
