"""One file per family of event types, and the one list that registers them.

A handler module has FAMILY, EVENT_TYPES, `handle(event) -> Outcome` (pure) and EXAMPLES, which the contract
test runs; docs/howto/add-a-handler.md shows how to write one.
"""

from __future__ import annotations

from agents.handlers import default, payment, tracking, user
from agents.registry import Handler, Registry

#: Every handler. Adding one is a new file and its name here.
HANDLER_MODULES = (tracking, user, payment, default)

#: The families, each with its own topic `events.<family>` and its own consumers.
FAMILIES = ("tracking", "user", "payment", "default")


def load_registry() -> Registry:
    """Build the registry of every handler listed above.

    Raises:
        TypeError: A handler module lacks a part, or a part has the wrong type.
        ValueError: Two handlers claim one event type, or a family does not exist.
    """
    return Registry([Handler.of_module(module) for module in HANDLER_MODULES], FAMILIES)
