"""A handler whose `prepare` does what it must not, for the events whose payload says so in `how`.

`prepare_badly`. Metric `prepared`: the events that were prepared for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, processed

FAMILY = "user"
EVENT_TYPES = ("prepare_badly",)
PREPARE_SECONDS = 0.5


async def prepare(events: Sequence[Event], services: Any) -> Mapping[UUID, Any]:
    how = {event.payload.get("how") for event in events}
    if "raise" in how:
        raise RuntimeError("on purpose")
    if "late" in how:
        await asyncio.sleep(3600)
    if "deaf" in how:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
    if "block" in how:
        time.sleep(3600)
    async with services.database.across_projects() as connection:
        await connection.execute("SELECT 1")
    return {event.id: "ready" for event in events}


def handle(event: Event, prepared: Any) -> Outcome:
    return processed(Count("prepared", (str(prepared),)))


EXAMPLES = (Example("prepare_badly", {}),)
