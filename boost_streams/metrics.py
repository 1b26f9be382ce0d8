"""Every metric Boost exports, declared once; `GET /metrics` shows them in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

EVENTS_ACCEPTED = Counter("boost_events_accepted", "Events committed as pending.", registry=REGISTRY)
EVENTS_DUPLICATE = Counter("boost_events_duplicate", "Events whose messageId was known.", registry=REGISTRY)
EVENTS_REFUSED = Counter("boost_events_refused", "Events refused, by error code.", ["code"], registry=REGISTRY)
EVENTS_SETTLED = Counter(
    "boost_events_settled", "Events settled, by handler family and status.", ["family", "status"], registry=REGISTRY
)
COMMIT_SECONDS = Histogram("boost_commit_seconds", "Duration of one group commit.", buckets=_SECONDS, registry=REGISTRY)
COMMIT_EVENTS = Histogram(
    "boost_commit_events",
    "Events in one group commit.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 800),
    registry=REGISTRY,
)
SETTLE_SECONDS = Histogram("boost_settle_seconds", "Duration of one settlement.", buckets=_SECONDS, registry=REGISTRY)
WAITING_BYTES = Gauge("boost_intake_waiting_bytes", "Bytes of bodies and events not answered yet.", registry=REGISTRY)
BATCHES_PUBLISHED = Counter(
    "boost_batches_published", "Batches handed to the broker, by who did it.", ["by"], registry=REGISTRY
)
BATCHES_RELEASED = Counter(
    "boost_batches_released", "Batches whose publish failed and that were left to the sweeper.", registry=REGISTRY
)
EVENTS_REDELIVERED = Counter(
    "boost_events_redelivered", "Events that a settlement found already moved on.", ["family"], registry=REGISTRY
)
MESSAGES_MALFORMED = Counter(
    "boost_messages_malformed", "Messages that could not be decoded, by topic.", ["topic"], registry=REGISTRY
)
MESSAGES_POSTPONED = Counter(
    "boost_messages_postponed",
    "Messages of a newer release, sent back for later, by topic.",
    ["topic"],
    registry=REGISTRY,
)
BROKER_UP = Gauge("boost_broker_up", "1 when the last send to the broker was taken.", registry=REGISTRY)
EVENTS_ISOLATED = Counter(
    "boost_events_isolated",
    "Events run one at a time apart from the worker, by handler.",
    ["handler"],
    registry=REGISTRY,
)
HANDLER_KILLS = Counter(
    "boost_handler_kills", "Times that an event killed the process that ran it alone.", ["handler"], registry=REGISTRY
)
TOPIC_PAUSED = Gauge("boost_topic_paused", "1 while no worker handles a topic.", ["topic"], registry=REGISTRY)
