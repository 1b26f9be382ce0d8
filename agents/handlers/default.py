"""Every event type that no other handler claims: counted, and never failed.

Metric, per UTC day:

- `event_types` (event type): how many events of that type.
"""

from __future__ import annotations

from agents.payload_fields import dimension
from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, processed

FAMILY = "default"
EVENT_TYPES = ()


def handle(event: Event) -> Outcome:
    """Count an event by its type."""
    return processed(Count("event_types", (dimension(event.event_type) or "unknown",)))


EXAMPLES = (
    Example("coupon_applied", {"code": "MAY", "percent": 12.5}),
    Example("Übersicht geöffnet", {}),
)
