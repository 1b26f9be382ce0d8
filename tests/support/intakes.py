"""Intakes of workers whose broker is away: every batch is left to the sweeper."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from boost_streams.ledger import Ledger
from boost_streams.publishing import BrokerState, Publisher
from db.pool import Database
from web.intake import Intake
from web.outbox import Outbox


def new_intake(database: Database, **changes: Any) -> Intake:
    """Make the intake of one worker; it is not started."""
    options = {"stuck_after_seconds": 300, "most_waiting_bytes": 1 << 20, **changes}
    ledger = Ledger(uuid4(), "test", "http://test", ("web",))
    outbox = Outbox(database, Publisher(None, BrokerState(("127.0.0.1:1",))), ledger)
    return Intake(database, outbox, ledger, **options)


@contextlib.asynccontextmanager
async def running_intake(database: Database, **changes: Any) -> AsyncIterator[Intake]:
    """Run the intake of one worker."""
    intake = new_intake(database, **changes)
    await intake.start()
    try:
        yield intake
    finally:
        await intake.stop()
