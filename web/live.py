"""`GET /live/counts`: the live table's view of the caller's project, on whichever worker is asked.

A worker that does not hold the project's partition asks the one that does, with the caller's own key.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

import aiohttp
from aiohttp import web
from aiokafka.partitioner import murmur2
from faust.types import TP
from yarl import URL

from boost_streams.errors import Unavailable
from db.pool import Database
from db.workers import worker_with_agents_across_projects
from web.auth import require
from web.services import json_response, services_of

#: How long the worker that holds the counts may take to answer (seconds).
_ASK_SECONDS = 3.0
#: How often a question was passed on: once by a worker without agents, once by one without the partition.
_HOPS = "x-boost-hops"
_MOST_HOPS = 2


class LiveCounts(Protocol):
    """Where live counts come from."""

    async def owner(self, project_id: UUID) -> str | None:
        """Return the URL of the worker that holds a project's counts, or knows who does; None for this one.

        Raises:
            Unavailable: Partitions are not assigned yet, or no worker runs agents.
        """

    def counts(self, project_id: UUID) -> dict[str, dict[str, list[int]]]:
        """Return minute → type → [processed, failed] as this worker holds them."""


class TableLiveCounts:
    """Live counts in a Faust table of this application."""

    def __init__(self, app: Any, table: Any | None, database: Database, partitions: int) -> None:
        self._app = app
        self._table = table
        self._database = database
        self._partitions = partitions

    async def owner(self, project_id: UUID) -> str | None:
        """Find the worker whose consumer has the project's partition; without agents, ask one that has some."""
        if self._table is None:
            async with self._database.across_projects() as connection:
                url = await worker_with_agents_across_projects(connection)
            if url is None:
                raise Unavailable("no worker runs agents now, so nobody holds live counts", retry_after=1)
            return url
        partition = (murmur2(project_id.bytes) & 0x7FFFFFFF) % self._partitions
        changelog = self._table.changelog_topic.get_topic_name()
        # The producer of `events.settled` and of the changelog picks the partition just so; a worker that has not
        # written to it yet knows the owner all the same.
        url = self._app.assignor._tps_url.get(TP(changelog, partition))
        if url is None:
            raise Unavailable("live counts are not assigned to a worker yet", retry_after=1)
        location = URL(str(url))
        own = URL(str(self._app.conf.canonical_url))
        return None if (location.host, location.port) == (own.host, own.port) else str(location)

    def counts(self, project_id: UUID) -> dict[str, dict[str, list[int]]]:
        """Read the table."""
        assert self._table is not None
        return self._table.get(project_id.bytes) or {}


async def live_counts(request: web.Request) -> web.Response:
    """Answer `{"approximate": true, "minutes": [{"minute", "eventType", "processed", "failed"}]}`."""
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    owner = await services.live.owner(identity.project_id)
    hops = _hops(request)
    if owner is not None and hops < _MOST_HOPS:
        return await _ask(owner, request, hops + 1)
    counts = services.live.counts(identity.project_id)
    minutes = [
        {"minute": minute, "eventType": event_type, "processed": pair[0], "failed": pair[1]}
        for minute, types in sorted(counts.items(), reverse=True)
        for event_type, pair in sorted(types.items())
    ]
    return json_response({"approximate": True, "minutes": minutes})


def _hops(request: web.Request) -> int:
    text = request.headers.get(_HOPS, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else 0


async def _ask(owner: str, request: web.Request, hops: int) -> web.Response:
    headers = {name: request.headers[name] for name in ("x-api-key", "authorization") if name in request.headers}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS)) as session,
            session.get(URL(owner).join(URL("/live/counts")), headers={**headers, _HOPS: str(hops)}) as response,
        ):
            return web.Response(
                body=await response.read(), status=response.status, content_type="application/json", charset="utf-8"
            )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable("the worker that holds these counts does not answer", retry_after=1) from error
