"""A handler whose `prepare` hangs at an event's first attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, processed

FAMILY = "user"
EVENT_TYPES = ("poison_prepare_hangs",)
EXAMPLES = (Example("poison_prepare_hangs", {}),)
PREPARE_SECONDS = 0.3


async def prepare(events: Sequence[Event], services: Any) -> Mapping[UUID, Any]:
    """Hang when one of the events is new; the loop gives up and hands all of them over again."""
    if any(event.attempt == 0 for event in events):
        await asyncio.Event().wait()
    return {}


def handle(event: Event, prepared: Any = None) -> Outcome:
    """Count it."""
    return processed(Count("poison", ("prepared",)))
