"""The web layer as an aiohttp application of its own: handlers and middlewares, without Faust or a broker."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from boost_streams.app import ConnectionFactory, OwnRunner
from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis
from web.auth import Authenticator
from web.health import Health
from web.intake import Intake
from web.middleware import MIDDLEWARES
from web.services import SERVICES, Handler, WebServices


class QuietProbe:
    """A worker of which nothing is wrong, unless a test says so."""

    def __init__(self) -> None:
        self.broker: str | None = None
        self.assignment: str | None = None
        self.stopping = False

    def broker_problem(self) -> str | None:
        """Return what the test set."""
        return self.broker

    def assignment_problem(self) -> str | None:
        """Return what the test set."""
        return self.assignment

    def draining(self) -> bool:
        """Return what the test set."""
        return self.stopping


class OwnConnectionsServer(TestServer):
    """A test server whose connections are of our own making, as a worker's are."""

    def __init__(self, app: web.Application, factory: ConnectionFactory) -> None:
        super().__init__(app)
        self._factory = factory

    async def _make_runner(self, **options: Any) -> OwnRunner:
        runner = OwnRunner(self.app, **{**options, "handler_cancellation": False})
        runner.connection_factory = self._factory
        return runner


async def undecoding_server(
    app: web.Application, factory: ConnectionFactory = web.RequestHandler, **options: Any
) -> TestServer:
    """Serve an application that is handed bodies as they were sent, as a worker's is."""
    server = OwnConnectionsServer(app, factory)
    await server.start_server(auto_decompress=False, **options)
    return server


@contextlib.asynccontextmanager
async def web_client(
    settings: Settings,
    database: Database,
    routes: Mapping[tuple[str, str], Handler],
    *,
    health: Health | None = None,
    intake: Intake | None = None,
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve (method, path) → handler, with keys read from the database; no live table."""
    redis = Redis(settings.redis_url)
    authenticator = Authenticator(database, redis, settings)
    app = web.Application(middlewares=MIDDLEWARES)
    unused: Any = None
    app[SERVICES] = WebServices(
        settings=settings,
        database=database,
        authenticator=authenticator,
        intake=intake or unused,
        health=health or Health(settings, database, QuietProbe()),
        live=unused,
        now=now,
    )
    for (method, path), handler in routes.items():
        app.router.add_route(method, path, handler)
    await authenticator.start()
    try:
        async with TestClient(await undecoding_server(app)) as client:
            yield client
    finally:
        await authenticator.stop()
        await redis.close()
