"""One file per family of event types, and the one list that registers them.

A handler module has FAMILY, EVENT_TYPES, `handle(event) -> Outcome` (pure) and EXAMPLES, which the contract
test runs; docs/howto/add-a-handler.md shows how to write one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from agents.handlers import default, payment, tracking, user
from agents.registry import Handler, Registry

#: Every handler. Adding one is a new file and its name here.
HANDLER_MODULES = (tracking, user, payment, default)

#: The families, each with its own topic `events.<family>` and its own consumers.
FAMILIES = ("tracking", "user", "payment", "default")


def load_registry(more: Iterable[str] = ()) -> Registry:
    """Build the registry of every handler listed above, and of those in other modules (`BOOST_HANDLER_MODULES`).

    Args:
        more: Names of modules, such as `shop.handlers.coupons`, that are handlers in the shape described above.

    Raises:
        ImportError: A module is not there, or cannot be imported.
        TypeError: A handler module lacks a part, or a part has the wrong type.
        ValueError: Two handlers claim one event type or name, or a family does not exist.
    """
    modules = [*HANDLER_MODULES, *(importlib.import_module(name) for name in more)]
    return Registry([Handler.of_module(module) for module in modules], FAMILIES)
