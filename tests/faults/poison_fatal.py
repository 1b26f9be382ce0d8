"""Handlers that harm more than their own event unless they are kept apart: they block, end the process, eat memory."""

from __future__ import annotations

import os
import time

from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Outcome

FAMILY = "tracking"
EVENT_TYPES = ("poison_blocks", "poison_exits", "poison_eats_memory")
EXAMPLES: tuple[Example, ...] = ()

_MOST_MEGABYTES = 3072


def handle(event: Event) -> Outcome:
    """Do what the event's type says; whatever becomes of it, the event must end failed."""
    if event.event_type == "poison_blocks":
        while True:
            time.sleep(1)
    if event.event_type == "poison_exits":
        os._exit(9)
    kept = [bytearray(1 << 20) for _ in range(_MOST_MEGABYTES)]
    raise MemoryError(f"nobody stopped it at {len(kept)} MiB")
