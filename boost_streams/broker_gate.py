"""Holds a worker's consumer back until the broker answers and its topics fit; the web server does not wait for it."""

from __future__ import annotations

import logging
from typing import Any

from mode import Service

from boost_streams.errors import BoostError, BrokerAway, TopicMismatch
from boost_streams.logs import get_logger
from boost_streams.publishing import BrokerState, reachable
from boost_streams.settings import Settings
from boost_streams.topics import ensure_topics, weak_topics

#: How often the gate looks for a broker that is away (seconds).
_GATE_SECONDS = 0.5
#: The worker's exit code when topics, or a server, are set in a way that it does not work with.
EXIT_CONFIGURATION = 2

_log = get_logger(__name__)


class BrokerGate(Service):
    """Holds back producer, consumer and agents until the broker answers and the topics fit."""

    logger = logging.getLogger(__name__)

    def __init__(self, settings: Settings, state: BrokerState, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._state = state
        self.mismatch: BoostError | None = None

    async def on_start(self) -> None:
        """Wait for the broker, then create or check the topics."""
        said: set[str] = set()
        while not self.should_stop:
            problem = f"no answer from {', '.join(self._settings.brokers)}"
            if await reachable(self._settings.brokers):
                try:
                    created = await ensure_topics(self._settings)
                except TopicMismatch as error:
                    _log.error("topics do not fit", action="topics_check", error=error.message)
                    self.mismatch = error
                    raise SystemExit(EXIT_CONFIGURATION) from error
                except BrokerAway as error:
                    self._state.failed(error)
                    problem = error.message
                else:
                    self._state.topics_made.update(created)
                    if created:
                        _log.info("topics created", action="topics_create", count=len(created))
                    await self._warn_of_weak_topics()
                    return
            else:
                self._state.failed(BrokerAway(problem))
            if problem not in said:
                said.add(problem)
                _log.warning(
                    "waiting for the broker",
                    action="broker_wait",
                    brokers=",".join(self._settings.brokers),
                    error=problem,
                )
            await self.sleep(_GATE_SECONDS)

    async def _warn_of_weak_topics(self) -> None:
        try:
            for problem in await weak_topics(self._settings):
                _log.warning(
                    "a topic may lose messages", action="topics_check", topic=problem.field, error=problem.message
                )
        except BrokerAway as error:
            _log.warning("topics not checked", action="topics_check", error=error.message)
