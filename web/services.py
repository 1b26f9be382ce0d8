"""What a request needs at hand, carried by the aiohttp application, and how answers are written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from boost_streams.settings import Settings
from db.pool import Database

if TYPE_CHECKING:
    from web.auth import Authenticator
    from web.health import Health
    from web.intake import Intake
    from web.live import LiveCounts


@dataclass(slots=True)
class WebServices:
    """The parts that views call. Built once in `boost_streams.worker`."""

    settings: Settings
    database: Database
    authenticator: Authenticator
    intake: Intake
    health: Health
    live: LiveCounts
    now: Callable[[], dt.datetime]
    #: This worker is stopping: each answer is the last one on its connection.
    closing: bool = False


SERVICES: web.AppKey[WebServices] = web.AppKey("boost_services", WebServices)

#: A request handler: every path's methods in `web/routes.py` are of this shape.
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JSON = (("Content-Type", "application/json; charset=utf-8"),)
_encoder = msgspec.json.Encoder(decimal_format="number")


def services_of(request: web.Request) -> WebServices:
    """Return the services of the application that received a request."""
    return request.app[SERVICES]


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with JSON. `msgspec.Raw` values (payloads from the database) are written as they are."""
    all_headers = CIMultiDict(_JSON)
    if headers:
        all_headers.update(headers)
    return web.Response(body=_encoder.encode(value), status=status, headers=all_headers)
