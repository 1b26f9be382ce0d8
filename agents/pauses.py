"""Topics that are paused: by this worker, because a handler fails most of its events, or by anybody else.

PostgreSQL holds which they are. Each worker reads it about once a second, and handles nothing before it has read it
the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from agents.failing_share import Verdict
from agents.progress import ConsumerProgress
from boost_streams.errors import Unavailable
from boost_streams.logs import get_logger
from boost_streams.metrics import TOPIC_PAUSED
from db.pauses import pause_across_projects, pauses_across_projects, several_projects_across_projects
from db.pool import Database

#: How often PostgreSQL is asked which topics are paused (seconds).
REFRESH_SECONDS = 1.0

_log = get_logger(__name__)


class Pauses:
    """What this worker knows of paused topics; `progress.held` is the set of them."""

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        progress: ConsumerProgress,
        read_again: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._progress = progress
        self._read_again = read_again
        self._own: dict[str, Verdict] = {}
        self._known = asyncio.Event()
        self._several = False

    async def holds(self, topic: str) -> bool:
        """Tell whether a topic is paused, waiting until that is known."""
        if not self._known.is_set():
            await self._known.wait()
        return topic in self._progress.held

    async def judge(self, topic: str, verdict: Verdict) -> bool:
        """Pause a topic because of a handler, unless that would be one project's doing; tell whether it was.

        The pause holds at once for this worker, and for the others as soon as PostgreSQL knows of it.
        """
        try:
            if verdict.projects == 0 or (verdict.projects == 1 and await self._several_projects()):
                return False
        except Unavailable:
            return False
        self._own[topic] = verdict
        self._hold(topic, _reason(verdict), verdict.handler)
        return True

    async def refresh(self) -> None:
        """Write down what this worker paused, then read what is paused and what is no longer.

        Raises:
            Unavailable: PostgreSQL is away; what is known holds on.
        """
        async with self._database.across_projects() as connection:
            for topic, verdict in list(self._own.items()):
                await pause_across_projects(
                    connection, topic, _reason(verdict), handler=verdict.handler, worker_id=self._worker_id
                )
                del self._own[topic]
            paused = {pause.topic: pause for pause in await pauses_across_projects(connection)}
        for topic, pause in paused.items():
            if topic not in self._progress.held:
                self._hold(topic, pause.reason, pause.handler)
        for topic in self._progress.held - set(paused) - set(self._own):
            await self._read_again(topic)
            self._progress.held.discard(topic)
            TOPIC_PAUSED.labels(topic=topic).set(0)
            _log.info("a topic is handled again", action="topic_resumed", topic=topic)
        self._known.set()

    def _hold(self, topic: str, reason: str, handler: str | None) -> None:
        self._progress.held.add(topic)
        TOPIC_PAUSED.labels(topic=topic).set(1)
        _log.error(
            "a topic is paused; boost topics resume lets it go on",
            action="topic_paused",
            topic=topic,
            handler=handler,
            error=reason,
        )

    async def _several_projects(self) -> bool:
        if self._several:
            return True
        async with self._database.across_projects() as connection:
            self._several = await several_projects_across_projects(connection)
        return self._several


def _reason(verdict: Verdict) -> str:
    return f"{verdict.share:.0%} of the events of handler {verdict.handler} failed, {verdict.failing} within a minute"
