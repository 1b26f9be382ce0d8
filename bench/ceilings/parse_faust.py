"""A Faust worker with our settings and loop whose only view parses and answers; it consumes nothing.

faust -A bench.ceilings.parse_faust worker -l info
"""

from __future__ import annotations

import uvloop
from aiohttp import web
from faust.web.views import View

from bench.ceilings.parse_only import alive, parse_and_answer
from boost_streams.app import create_app
from boost_streams.settings import load_settings

uvloop.install()
_settings = load_settings()
app = create_app(_settings, {"client_max_size": _settings.max_body_bytes})
app.producer_only = True
app.conf.web_enabled = True


@app.page("/events")
class EventsView(View):
    """Parses and answers."""

    async def post(self, request: web.Request) -> web.Response:
        """Decode an event and answer 202."""
        return await parse_and_answer(request)


@app.page("/health/live")
class LiveView(View):
    """Says that the server is up."""

    async def get(self, request: web.Request) -> web.Response:
        """Answer ok."""
        return await alive(request)
