"""The aggregator: feeds the live tables from `events.settled`, one table update per message."""

from __future__ import annotations

from typing import Any

from agents.dead_letters import DeadLetters
from boost_streams.logs import get_logger
from boost_streams.records import Newer, SettledDeltas
from tables.live_counts import add_deltas

_log = get_logger(__name__)


class Aggregator:
    """Takes what settled and adds it to the live counts. A view: what goes wrong is logged and passed over."""

    def __init__(self, table: Any, dead_letters: DeadLetters) -> None:
        self._table = table
        self._dead_letters = dead_letters

    async def run(self, stream: Any) -> None:
        """Aggregate until cancelled. Faust acknowledges by itself: a view may lose or repeat a little."""
        async for event in stream.events():
            deltas = event.value
            try:
                if isinstance(deltas, Newer):
                    continue  # a newer release counts it in what it shows; here the view goes without
                if not isinstance(deltas, SettledDeltas):
                    await self._dead_letters.malformed(deltas)
                    continue
                key = deltas.project_id.bytes
                self._table[key] = add_deltas(self._table.get(key) or {}, deltas)
            except Exception as error:
                _log.exception("live counts not updated", action="aggregate", error=type(error).__name__)
