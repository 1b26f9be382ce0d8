"""A worker like any other that has the handlers of the suite's poison events as well.

faust -A tests.faults.poisoned_worker worker
"""

from __future__ import annotations

import agents.handlers
from tests.faults import poison, poison_slow

agents.handlers.HANDLER_MODULES = (*agents.handlers.HANDLER_MODULES, poison, poison_slow)  # type: ignore[assignment]

from boost_streams.worker import app, worker  # noqa: E402 - it reads the list above

__all__ = ["app", "worker"]
