"""A worker like any other that has the handlers of the suite's poison events as well.

faust -A tests.faults.poisoned_worker worker
"""

from __future__ import annotations

import agents.handlers
from boost_streams.settings import Settings
from tests.faults import poison, poison_slow

#: Handler modules that a worker takes by name, in `BOOST_HANDLER_MODULES`, where this release knows that variable.
BY_NAME = "boost_handler_modules" in Settings.model_fields

if not BY_NAME:
    agents.handlers.HANDLER_MODULES = (*agents.handlers.HANDLER_MODULES, poison, poison_slow)  # type: ignore[assignment]

from boost_streams.worker import app, worker  # noqa: E402 - it reads the list above

__all__ = ["app", "worker"]
