"""The campaigns: which faults, how often, how far apart, under which load, and what must hold beside the oracle.

A campaign is data. `schedule` draws from a seed in which order its faults come, how long each lasts and how long
nothing happens before it; the same seed and scale give the same schedule.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.faults import faults, network
from tests.faults.delivery import EverythingTwice, TopicsWiped, Unreadable
from tests.faults.faults import Fault

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault of a campaign: how often it happens, how long it lasts, the pause before it (seconds)."""

    title: str
    make: Callable[[], Fault]
    times: int
    lasts: Span = (0.1, 0.5)
    after: Span = (2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a schedule: after so many seconds without one it begins, and lasts so long."""

    title: str
    make: Callable[[], Fault]
    after: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Rules:
    """What must hold beside the oracle. Times in seconds; None where nothing is asked."""

    #: How soon after the last fault all that was accepted must be settled.
    settled_within: float = 90.0
    #: How late a 503 may come.
    refused_within: float | None = None
    #: How many connections may end within an exchange.
    resets: int | None = None
    #: The only answers there may be.
    statuses: frozenset[int] = frozenset({202, 400, 413, 422, 503})


@dataclass(frozen=True, slots=True)
class Campaign:
    """Faults of one or several kinds on one rig, and the load under which they happen."""

    name: str
    kinds: Sequence[Kind]
    rate: float = 60.0
    workers: int = 3
    #: Faults that last from the beginning to the end of the traffic.
    throughout: Sequence[Callable[[], Fault]] = ()
    #: So many events are sent, as fast as they are taken, while the first fault lasts.
    burst: int = 0
    #: Several faults may last at once.
    overlapping: bool = False
    on_small_disk: bool = False
    #: Clients go through a proxy as well; else they reach workers directly, and see how a listener ends.
    clients_too: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = Rules()


def schedule(campaign: Campaign, seed: int, scale: float = 1.0) -> list[Planned]:
    """Draw what happens when; each kind at least once."""
    chance = random.Random(f"{campaign.name} {seed}")
    planned = [
        Planned(kind.title, kind.make, chance.uniform(*kind.after), chance.uniform(*kind.lasts))
        for kind in campaign.kinds
        for _ in range(max(1, round(kind.times * scale)))
    ]
    chance.shuffle(planned)
    return planned


#: What was published and not settled counts as stuck soon: Kafka forgot it, and nothing else finds it.
_SOON_STUCK = {"SWEEP_STUCK_AFTER_SECONDS": "5", "SWEEP_INTERVAL_SECONDS": "2"}

#: What clients may see of workers that are replaced: a refused connection or a 503, and nothing cut off.
_DEPLOY = Rules(settled_within=30, resets=0)


def _network(pair: str) -> Campaign:
    kinds = [
        Kind(f"{title}: {pair}", partial(make, pair), 5, lasts=(4.0, 7.0), after=(2.0, 3.0))
        for title, make in (
            ("latency of 500 ms", network.Latency),
            ("1 % lost by reset", network.Loss),
            ("half-open", network.HalfOpen),
            ("cut mid-message", network.CutMidMessage),
        )
    ]
    return Campaign(f"network-{pair}", kinds, clients_too=pair == "clients")


CAMPAIGNS = (
    Campaign(
        "kill",
        [Kind("kill -9 of a random worker", faults.KillWorker, 100, after=(2.0, 6.0))],
        throughout=(EverythingTwice,),
    ),
    Campaign(
        "terminate",
        [Kind("SIGTERM of a random worker", faults.TerminateWorker, 20, after=(1.0, 3.0))],
        rules=_DEPLOY,
    ),
    Campaign(
        "rolling-restart",
        [Kind("rolling restart of all workers", faults.RollingRestart, 5)],
        rules=_DEPLOY,
    ),
    Campaign(
        "postgres-kill",
        [Kind("PostgreSQL kill -9, crash recovery", faults.PostgresKilled, 20, lasts=(0.5, 3.0), after=(3.0, 6.0))],
        rules=Rules(refused_within=3.0),
    ),
    Campaign(
        "postgres-failover",
        [
            Kind(
                "PostgreSQL fail-over: connections reset, read-only for 5 s",
                faults.PostgresFailsOver,
                5,
                lasts=(5.0, 5.0),
                after=(3.0, 6.0),
            )
        ],
        rules=Rules(refused_within=3.0),
    ),
    Campaign(
        "kafka-outage",
        [Kind("Kafka stopped for 10 minutes' worth of traffic", faults.KafkaStopped, 1, lasts=(20.0, 20.0))],
        burst=600 * 60,
    ),
    Campaign(
        "kafka-kill",
        [Kind("Kafka kill -9", faults.KafkaKilled, 10, lasts=(0.5, 4.0), after=(3.0, 8.0))],
    ),
    Campaign(
        "kafka-wipe",
        [
            Kind("topics wiped under running workers", TopicsWiped, 2, after=(5.0, 6.0)),
            Kind("Kafka comes back empty, without topics", faults.KafkaEmptied, 1, after=(5.0, 6.0)),
        ],
        environment=_SOON_STUCK,
    ),
    Campaign(
        "redis",
        [
            Kind("Redis stopped", faults.RedisStopped, 5, lasts=(1.0, 4.0), after=(1.0, 2.0)),
            Kind("Redis flushed", faults.RedisFlushed, 5, after=(1.0, 2.0)),
            Kind("Redis slow", faults.RedisSlow, 5, lasts=(2.0, 4.0), after=(1.0, 2.0)),
        ],
        environment={"API_KEY_CACHE_SECONDS": "1"},
        rules=Rules(settled_within=30, resets=0, statuses=frozenset({202, 400, 413, 422})),
    ),
    *(_network(pair) for pair in network.PAIRS),
    Campaign(
        "delivery",
        [Kind("messages that nobody can read, on every topic", Unreadable, 5)],
        throughout=(EverythingTwice,),
    ),
    Campaign(
        "handlers",
        [
            Kind("a handler that blocks", partial(faults.FatalEvent, "poison_blocks"), 2, after=(8.0, 12.0)),
            Kind("a handler that ends the process", partial(faults.FatalEvent, "poison_exits"), 2, after=(8.0, 12.0)),
            Kind("a handler that eats memory", partial(faults.FatalEvent, "poison_eats_memory"), 2, after=(8.0, 12.0)),
        ],
        environment={"HANDLER_STALL_SECONDS": "3"},
    ),
    Campaign(
        "zombie",
        [
            Kind(
                "worker paused past its session time-out, then continued",
                faults.PauseWorker,
                10,
                lasts=(9.0, 13.0),
                after=(3.0, 6.0),
            )
        ],
        throughout=(EverythingTwice,),
    ),
    Campaign(
        "disk-full",
        [Kind("disk full under PostgreSQL", faults.DiskFull, 2, lasts=(6.0, 10.0), after=(4.0, 6.0))],
        on_small_disk=True,
    ),
    Campaign(
        "storm",
        [
            Kind("several at once: worker killed", faults.KillWorker, 6, after=(0.5, 3.0)),
            Kind("several at once: worker paused", faults.PauseWorker, 2, lasts=(8.0, 10.0), after=(0.5, 3.0)),
            Kind("several at once: PostgreSQL killed", faults.PostgresKilled, 3, lasts=(0.5, 3.0), after=(2.0, 6.0)),
            Kind("several at once: Kafka killed", faults.KafkaKilled, 3, lasts=(0.5, 3.0), after=(2.0, 6.0)),
            Kind("several at once: Redis stopped", faults.RedisStopped, 2, lasts=(1.0, 3.0), after=(0.5, 3.0)),
            Kind(
                "several at once: 1 % lost between workers and PostgreSQL",
                partial(network.Loss, "postgres"),
                2,
                lasts=(3.0, 6.0),
                after=(0.5, 3.0),
            ),
        ],
        throughout=(EverythingTwice,),
        overlapping=True,
    ),
)

#: A few of each on one rig, one after the other: what the ordinary tests run.
SELECTION = Campaign(
    "selection",
    [
        Kind("worker killed", faults.KillWorker, 5, after=(2.0, 4.0)),
        Kind("SIGTERM", faults.TerminateWorker, 3, after=(1.0, 3.0)),
        Kind("worker paused", faults.PauseWorker, 1, lasts=(8.0, 9.0), after=(1.0, 2.0)),
        Kind("PostgreSQL killed", faults.PostgresKilled, 2, lasts=(0.5, 1.5), after=(2.0, 3.0)),
        Kind("PostgreSQL fails over", faults.PostgresFailsOver, 1, lasts=(5.0, 5.0), after=(1.0, 2.0)),
        Kind("Kafka killed", faults.KafkaKilled, 1, after=(3.0, 4.0)),
        Kind("Redis stopped", faults.RedisStopped, 1, lasts=(1.0, 2.0), after=(0.5, 1.0)),
        Kind("unreadable messages", Unreadable, 1, after=(0.5, 1.0)),
        *(
            Kind(f"{make.__name__}: {pair}", partial(make, pair), 1, lasts=(3.0, 4.0), after=(0.5, 1.0))
            for pair, make in (
                ("postgres", network.CutMidMessage),
                ("postgres", network.HalfOpen),
                ("kafka", network.Loss),
                ("clients", network.CutMidMessage),
            )
        ),
    ],
    throughout=(EverythingTwice,),
    clients_too=True,
)

BY_NAME = {campaign.name: campaign for campaign in (*CAMPAIGNS, SELECTION)}
