"""Every path and its methods, as Faust web views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from faust.web.views import View

from web import dead_letters, health, ingest, ingest_batch, journey, keys, live, queries
from web.services import Handler

ROUTES: Mapping[str, Mapping[str, Handler]] = {
    "/events": {"post": ingest.accept_event, "get": queries.list_events},
    "/events/batch": {"post": ingest_batch.accept_batch},
    "/events/{id}": {"get": queries.get_event},
    "/events/{id}/journey": {"get": journey.get_journey},
    "/events/{id}/retry": {"post": queries.retry_event},
    "/dead-letters": {"get": dead_letters.list_letters},
    "/dead-letters/replay": {"post": dead_letters.replay},
    "/dead-letters/discard": {"post": dead_letters.discard},
    "/dead-letters/{id}": {"get": dead_letters.get_letter},
    "/live/counts": {"get": live.live_counts},
    "/auth/api-keys": {"post": keys.create_key, "get": keys.list_keys},
    "/auth/api-keys/{id}": {"delete": keys.revoke_key},
    "/health": {"get": health.detail},
    "/health/live": {"get": health.live},
    "/health/ready": {"get": health.ready},
    "/metrics": {"get": health.metrics},
}


#: What a worker without the `web` role answers: its health, and what it holds of the live tables.
_WITHOUT_WEB_ROLE = ("/health", "/health/live", "/health/ready", "/metrics", "/live/counts")


def register(app: Any, *, everything: bool) -> None:
    """Add a Faust view for every path, or only for health, metrics and live tables."""
    for path, methods in ROUTES.items():
        if everything or path in _WITHOUT_WEB_ROLE:
            app.page(path)(_view(path, methods))


def _view(path: str, methods: Mapping[str, Handler]) -> type[View]:
    def method(handler: Handler) -> Any:
        async def answer(self: View, request: web.Request, **_: str) -> web.StreamResponse:
            return await handler(request)

        answer.__doc__ = handler.__doc__
        return answer

    by_method = {name.upper(): handler for name, handler in methods.items()}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]

    async def call(self: View, request: web.Request) -> web.StreamResponse:
        """Answer without Faust's own dispatch: it would look for sensors and errors that we do not have."""
        handler = by_method.get(request.method)
        if handler is None:
            raise web.HTTPMethodNotAllowed(request.method, sorted(by_method))
        return await handler(request)

    name = "".join(part.strip("{}").title() for part in path.replace("-", "/").split("/")) + "View"
    return type(name, (View,), {"__call__": call, **{name: method(handler) for name, handler in methods.items()}})
