"""The fast path of `POST /events`: it answers as the view does, in order, and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis
from tests.support.http import undecoding_server
from tests.support.intakes import running_intake
from tests.support.projects import TestProject, make_project
from tests.support.waiting import eventually
from web.auth import Authenticator, Identity
from web.fast_path import FastPath
from web.ingest import accept_event
from web.intake import Intake
from web.middleware import MIDDLEWARES
from web.services import SERVICES, WebServices

EVENT = {"eventType": "x", "payload": {"text": "a"}}
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_MADE_REQUEST_ID = re.compile(rb"[0-9a-f]{24}")
_DATE = re.compile(rb"Date: [^\r]*")


class CountingFastPath(FastPath):
    """Counts what it took."""

    taken = 0

    def submit(self, *arguments: Any) -> bool:
        took = super().submit(*arguments)
        self.taken += took
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
        draining: list[bool] = []
        path = CountingFastPath(services, lambda: bool(draining))
        server = await undecoding_server(app, path.connection, access_log=None, **options)
        try:
            yield Site(server.port or 0, intake, path, known, server, draining)
        finally:
            await server.close()
            await known.stop()


@pytest.fixture
async def site(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Site]:
    async with serving(settings, database) as site:
        await exchange(site, request(project))  # from here on the key is known
        assert site.path.taken == 0
        yield site


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_both_ways_answer_alike(site: Site, project: TestProject, case: Case) -> None:
    if "messageId" in case.options.get("event", {}):
        await exchange(site, request(project, {**EVENT, "messageId": "m"}), in_two=True)
    sent = request(project, **case.options)
    before = site.path.taken
    fast = await exchange(site, sent)
    assert site.path.taken - before == case.taken
    slow = await exchange(site, sent, in_two=bool(case.options.get("body", b"x")))
    assert site.path.taken - before == case.taken
    assert comparable(fast) == comparable(slow)
    assert site.intake.budget.used == 0


async def test_a_bearer_key_is_taken_and_one_of_other_scope_is_not(site: Site, project: TestProject) -> None:
    bearer = request(project, x_api_key="", Authorization=f"Bearer {project.key}")
    assert (await exchange(site, bearer)).startswith(b"HTTP/1.1 202 ")
    assert site.path.taken == 1


async def test_a_key_without_the_scope_is_left_to_the_view(site: Site, database: Database) -> None:
    reader_only = await make_project(database, "reader", scopes=["read"])
    for _ in range(2):  # the second time it is known
        assert (await exchange(site, request(reader_only))).startswith(b"HTTP/1.1 403 ")
    assert site.path.taken == 0


async def test_a_refusal_by_the_database_is_answered_alike(
    site: Site, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Identity(uuid4(), uuid4(), ("ingest",))

    async def identify(_: str) -> Identity:
        return gone

    monkeypatch.setattr(site.known, "known", lambda _: gone)
    monkeypatch.setattr(site.known, "identify", identify)
    fast, slow = await exchange(site, request(project)), await exchange(site, request(project), in_two=True)
    assert site.path.taken == 1
    assert fast.startswith(b"HTTP/1.1 401 ")
    assert comparable(fast) == comparable(slow)


@contextlib.asynccontextmanager
async def commits_held(database: Database) -> AsyncIterator[None]:
    """Keep every commit waiting."""
    async with database.across_projects() as connection, connection.transaction():
        await connection.execute("LOCK TABLE event_batches IN SHARE MODE")
        yield


async def waits(site: Site, taken: int) -> None:
    await eventually(lambda: site.path.taken == taken, deadline=5)


async def test_requests_on_one_connection_are_answered_in_order(
    site: Site, project: TestProject, database: Database
) -> None:
    reader, writer = await connect(site)
    async with commits_held(database):
        writer.write(request(project, X_Request_Id="first"))
        await waits(site, 1)
        writer.write(request(project, body=b"{", X_Request_Id="second") + request(project, X_Request_Id="third"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read(1)
    answers = [await read_answer(reader) for _ in range(3)]
    assert [answer[9:12] for answer in answers] == [b"202", b"400", b"202"]
    assert [re.search(rb"X-Request-Id: (\w+)", answer)[1] for answer in answers] == [b"first", b"second", b"third"]  # type: ignore[index]
    writer.write(request(project))
    assert (await read_answer(reader))[9:12] == b"202"
    assert site.path.taken == 2  # the first and the last; what is pipelined goes to the view
    writer.close()


async def test_many_pipelined_requests_are_all_answered(site: Site, project: TestProject) -> None:
    reader, writer = await connect(site)
    writer.write(b"".join(request(project, X_Request_Id=f"r{number}") for number in range(50)))
    for number in range(50):
        assert f"X-Request-Id: r{number}\r\n".encode() in await read_answer(reader)
    writer.close()


async def test_a_client_that_leaves_loses_nothing_and_holds_nothing(
    site: Site, project: TestProject, database: Database
) -> None:
    async with commits_held(database):
        _, writer = await connect(site)
        writer.write(request(project, {**EVENT, "messageId": "left"}))
        await waits(site, 1)
        writer.close()
        assert site.intake.budget.used > 0
    await eventually(lambda: site.intake.budget.used == 0, deadline=5)
    again = await exchange(site, request(project, {**EVENT, "messageId": "left"}))
    assert b'"duplicate":true' in again


async def test_a_connection_that_waits_is_not_idle_and_one_that_is_goes(
    settings: Settings, project: TestProject, database: Database
) -> None:
    async with serving(settings, database, keepalive_timeout=0.3) as site:
        await exchange(site, request(project))
        reader, writer = await connect(site)
        async with commits_held(database):
            writer.write(request(project))
            await waits(site, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await reader.read(1)
        assert (await read_answer(reader))[9:12] == b"202"
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_under_way_is_answered_before_the_server_closes(
    site: Site, project: TestProject, database: Database
) -> None:
    reader, writer = await connect(site)
    async with commits_held(database):
        writer.write(request(project))
        await waits(site, 1)
        closing = asyncio.create_task(site.server.close())
        await asyncio.sleep(0.2)  # a server that does not wait would be closed by now
        assert not closing.done()
    assert (await read_answer(reader))[9:12] == b"202"
    await closing
    assert await reader.read() == b""
    writer.close()


async def test_a_worker_that_stops_leaves_everything_to_the_view(site: Site, project: TestProject) -> None:
    site.draining.append(True)
    assert (await exchange(site, request(project)))[9:12] == b"202"
    assert site.path.taken == 0
