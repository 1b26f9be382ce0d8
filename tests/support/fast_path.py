"""A server with the fast path, without a worker around it, and the requests that are sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis
from tests.support.http import undecoding_server
from tests.support.intakes import running_intake
from tests.support.projects import TestProject
from web.auth import Authenticator
from web.fast_path import FastPath
from web.ingest import accept_event
from web.ingest_batch import accept_batch
from web.intake import Intake
from web.middleware import MIDDLEWARES
from web.services import SERVICES, WebServices

EVENT = {"eventType": "x", "payload": {"text": "a"}}
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_MADE_REQUEST_ID = re.compile(rb"[0-9a-f]{24}")
_DATE = re.compile(rb"Date: [^\r]*")


class CountingFastPath(FastPath):
    """Counts what it took, and of that what was not parsed since its head was known."""

    taken = 0
    unparsed = 0

    def submit(self, *arguments: Any) -> bool:
        took = super().submit(*arguments)
        self.taken += took
        return took

    def submit_known(self, *arguments: Any) -> bool | None:
        took = super().submit_known(*arguments)
        self.taken += took is True
        self.unparsed += took is True
        return took


@dataclass
class Site:
    """A server with the fast path, and what stands behind it."""

    port: int
    intake: Intake
    path: CountingFastPath
    known: Authenticator
    server: Any
    draining: list[bool] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(settings: Settings, database: Database, **options: Any) -> AsyncIterator[Site]:
    redis = Redis(None)
    nothing: Any = None
    async with running_intake(database) as intake:
        known = Authenticator(database, redis, settings)
        await known.start()
        app = web.Application(middlewares=MIDDLEWARES)
        services = WebServices(
            settings=settings,
            database=database,
            authenticator=known,
            intake=intake,
            health=nothing,
            live=nothing,
            now=lambda: dt.datetime.now(dt.UTC),
        )
        app[SERVICES] = services
        app.router.add_post("/events", accept_event)
        app.router.add_post("/events/batch", accept_batch)
        draining: list[bool] = []
        path = CountingFastPath(services, lambda: bool(draining))
        server = await undecoding_server(app, path.connection, access_log=None, **options)
        try:
            yield Site(server.port or 0, intake, path, known, server, draining)
        finally:
            await server.close()
            await known.stop()


def request(
    project: TestProject,
    event: object = EVENT,
    *,
    method: str = "POST",
    target: str = "/events",
    version: str = "1.1",
    body: bytes | None = None,
    **headers: str,
) -> bytes:
    """Write a request; headers named as keywords replace the usual ones, an empty one is left out."""
    body = json.dumps(event).encode() if body is None else body
    usual = {
        "Host": "127.0.0.1",
        "x_api_key": project.key,
        "Content_Type": "application/json",
        "Content_Length": str(len(body)),
    }
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**usual, **headers}.items() if value]
    return "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""]).encode() + body


async def connect(site: Site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", site.port)


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100 "):
            return head + await read_answer(reader)
        length = re.search(rb"Content-Length: (\d+)", head)
        return head + await reader.readexactly(int(length[1]) if length else 0)


async def exchange(site: Site, sent: bytes, *, in_two: bool = False) -> bytes:
    """Send a request, whole or in two parts, the second of which the server waits for; return the answer."""
    reader, writer = await connect(site)
    if in_two:
        writer.write(sent[:-1])
        await asyncio.sleep(0.02)  # two segments; were they read as one, the fast path would be counted
        writer.write(sent[-1:])
    else:
        writer.write(sent)
    answer = await read_answer(reader)
    writer.close()
    return answer


def comparable(answer: bytes) -> bytes:
    """Leave out what differs from one answer to the next."""
    return _DATE.sub(b"Date", _MADE_REQUEST_ID.sub(b"made", _ID.sub(b"id", answer)))


@dataclass(frozen=True)
class Case:
    """A request, and whether the fast path takes it."""

    name: str
    taken: bool
    options: dict[str, Any]


CASES = [
    Case("a good event", True, {}),
    Case("every field", True, {"event": {**EVENT, "userId": "u", "anonymousId": "a", "sessionId": "s"}}),
    Case("a known messageId", True, {"event": {**EVENT, "messageId": "m"}}),
    Case("a timestamp", True, {"event": {**EVENT, "timestamp": "2026-01-31T12:00:00Z"}}),
    Case("a request id", True, {"X_Request_Id": "abc-1"}),
    Case("a mad request id", True, {"X_Request_Id": "a b"}),
    Case("no content type", True, {"Content_Type": ""}),
    Case("a charset", True, {"Content_Type": "application/json; charset=utf-8"}),
    Case("another JSON type", False, {"Content_Type": "application/vnd.shop+json"}),
    Case("a type that is no JSON", False, {"Content_Type": "text/html"}),
    Case("a query", False, {"target": "/events?x=1"}),
    Case("another path", False, {"target": "/nowhere"}),
    Case("another method", False, {"method": "PUT"}),
    Case("HTTP/1.0", False, {"version": "1.0"}),
    Case("a connection to be closed", False, {"Connection": "close"}),
    Case("Expect", False, {"Expect": "100-continue"}),
    Case("no key", False, {"x_api_key": ""}),
    Case("no such key", False, {"x_api_key": "bst_test_" + "a" * 36}),
    Case("a key that is no ASCII", False, {"x_api_key": "bst_t\u00e4st"}),
    Case("a coding", False, {"Content_Encoding": "gzip"}),
    Case("gzip without saying so", False, {"body": b"\x1f\x8b" + b"x" * 10}),
    Case("no JSON", False, {"body": b"{"}),
    Case("an empty body", False, {"body": b""}),
    Case("an unknown field", False, {"event": {**EVENT, "more": 1}}),
    Case("a NUL", False, {"event": {**EVENT, "userId": "a\x00"}}),
    Case("a blank type", False, {"event": {**EVENT, "eventType": "  "}}),
    Case("a large body", False, {"event": {"eventType": "x", "payload": {"text": "a" * 20_000}}}),
    Case("too large an event", False, {"event": {"eventType": "x", "payload": {"text": "a" * 70_000}}}),
]  # fmt: skip


def batch_case(name: str, taken: bool, events: object = None, **options: Any) -> Case:
    return Case(f"batch: {name}", taken, {"event": events, "target": "/events/batch", **options})


BATCH_CASES = [
    batch_case("an array", True, [EVENT, EVENT]),
    batch_case("an object", True, {"events": [EVENT], "sentAt": "2026-01-31T12:00:01Z"}),
    batch_case("timestamps", True, [{**EVENT, "timestamp": when} for when in ("2026-01-31T12:00:00Z", "2126-01-31")]),
    batch_case("known messageIds", True, [{**EVENT, "messageId": "m"}, EVENT, {**EVENT, "messageId": "m"}]),
    batch_case("a hundred events", True, [EVENT] * 100),
    batch_case("an event that is wrong", True, [EVENT, {**EVENT, "eventType": ""}, EVENT]),
    batch_case("an event that is no JSON", True, body=b'[{"eventType": "x", "payload": {}}, {"eventType"}]'),
    batch_case("a request id", True, [EVENT], X_Request_Id="abc-1"),
    batch_case("blanks around", True, body=b' \n[{"eventType": "x", "payload": {}}] '),
    batch_case("nothing but wrong events", False, [{"eventType": "x"}, {"payload": {}}]),
    batch_case("no event", False, []),
    batch_case("something else", False, {"events": [EVENT], "more": 1}),
    batch_case("one event that is no batch", False, EVENT),
    batch_case("too many events", False, [1] * 2_501),
    batch_case("no JSON", False, body=b"["),
    batch_case("an empty body", False, body=b""),
    batch_case("lines", False, body=b'{"eventType": "x", "payload": {}}\n', Content_Type="application/x-ndjson"),
    batch_case("a type that is no JSON", False, [EVENT], Content_Type="text/html"),
    batch_case("a coding", False, [EVENT], Content_Encoding="gzip"),
    batch_case("gzip without saying so", False, body=b"\x1f\x8b" + b"x" * 10),
    batch_case("a query", False, [EVENT], target="/events/batch?x=1"),
    batch_case("a large body", False, [{"eventType": "x", "payload": {"text": "a" * 40_000}}] * 2),
    batch_case("too large an event", False, [{"eventType": "x", "payload": {"text": "a" * 70_000}}, EVENT]),
    batch_case("no such key", False, [EVENT], x_api_key="bst_test_" + "a" * 36),
]  # fmt: skip
