"""The HTTP side of a worker with nothing behind it but the database: for tests of views and authentication."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from aiohttp import web
from aiohttp.test_utils import TestClient

from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis
from tests.support.http import undecoding_server
from web.auth import Authenticator
from web.middleware import MIDDLEWARES
from web.services import SERVICES, Handler, WebServices

Client = TestClient[web.Request, web.Application]


@contextlib.asynccontextmanager
async def authenticator(
    database: Database, settings: Settings, redis_url: str | None = None
) -> AsyncIterator[Authenticator]:
    """Run the authenticator of one worker."""
    redis = Redis(redis_url)
    made = Authenticator(database, redis, settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        await redis.close()


@contextlib.asynccontextmanager
async def http_client(
    routes: Mapping[tuple[str, str], Handler], database: Database, settings: Settings, known: Authenticator
) -> AsyncIterator[Client]:
    """Serve handlers by (method, path) behind the middlewares; lend a client."""
    nothing = cast(Any, None)
    app = web.Application(middlewares=MIDDLEWARES)
    app[SERVICES] = WebServices(
        settings=settings,
        database=database,
        authenticator=known,
        intake=nothing,
        health=nothing,
        live=nothing,
        now=lambda: dt.datetime.now(dt.UTC),
    )
    for (method, path), handler in routes.items():
        app.router.add_route(method, path, handler)
    async with TestClient(await undecoding_server(app)) as client:
        yield client
