"""`GET /live/counts`: the live table's view of the caller's project, on whichever worker is asked.

A worker that does not hold the project's partition asks the one that does, with the caller's own key.
"""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

import aiohttp
from aiohttp import web
from yarl import URL

from boost_streams.errors import Unavailable
from web.auth import require
from web.services import json_response, services_of

#: How long the worker that holds the counts may take to answer (seconds).
_ASK_SECONDS = 3.0
_ASKED = "x-boost-asked"


class LiveCounts(Protocol):
    """Where live counts come from."""

    def owner(self, project_id: UUID) -> str | None:
        """Return the URL of the worker that holds a project's counts, or None for this one.

        Raises:
            Unavailable: Partitions are not assigned yet.
        """

    def counts(self, project_id: UUID) -> dict[str, dict[str, list[int]]]:
        """Return minute → type → [processed, failed] as this worker holds them."""


class TableLiveCounts:
    """Live counts in a Faust table of this application."""

    def __init__(self, app: Any, table: Any | None) -> None:
        self._app = app
        self._table = table

    def owner(self, project_id: UUID) -> str | None:
        """Find the worker whose consumer has the project's partition."""
        if self._table is None:
            raise Unavailable("this worker holds no live counts: it runs without agents", retry_after=1)
        try:
            url: URL = self._app.router.key_store(self._table.name, project_id.bytes)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unavailable("live counts are not assigned to a worker yet", retry_after=1) from error
        own = URL(str(self._app.conf.canonical_url))
        return None if (url.host, url.port) == (own.host, own.port) else str(url)

    def counts(self, project_id: UUID) -> dict[str, dict[str, list[int]]]:
        """Read the table."""
        assert self._table is not None
        return self._table.get(project_id.bytes) or {}


async def live_counts(request: web.Request) -> web.Response:
    """Answer `{"approximate": true, "minutes": [{"minute", "eventType", "processed", "failed"}]}`."""
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    owner = services.live.owner(identity.project_id)
    if owner is not None and _ASKED not in request.headers:
        return await _ask(owner, request)
    counts = services.live.counts(identity.project_id)
    minutes = [
        {"minute": minute, "eventType": event_type, "processed": pair[0], "failed": pair[1]}
        for minute, types in sorted(counts.items(), reverse=True)
        for event_type, pair in sorted(types.items())
    ]
    return json_response({"approximate": True, "minutes": minutes})


async def _ask(owner: str, request: web.Request) -> web.Response:
    headers = {name: request.headers[name] for name in ("x-api-key", "authorization") if name in request.headers}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS)) as session,
            session.get(URL(owner).join(URL("/live/counts")), headers={**headers, _ASKED: "1"}) as response,
        ):
            return web.Response(
                body=await response.read(), status=response.status, content_type="application/json", charset="utf-8"
            )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable("the worker that holds these counts does not answer", retry_after=1) from error
