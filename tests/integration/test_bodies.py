"""Bodies as they come over the wire: encoded, broken, too large, slow; and what happens when memory is short."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import brotli
import pytest
from aiohttp.test_utils import TestClient
from backports import zstd

from boost_streams.settings import Settings
from db.pool import Database
from tests.support.http import web_client
from tests.support.intakes import new_intake, running_intake
from tests.support.projects import TestProject
from tests.support.waiting import eventually
from web import body as body_module
from web import byte_budget
from web.ingest import accept_event
from web.ingest_batch import accept_batch
from web.intake import Intake

Client = TestClient[Any, Any]
ROUTES = {("POST", "/events"): accept_event, ("POST", "/events/batch"): accept_batch}
EVENT = {"eventType": "x", "payload": {"text": "a" * 200}}
ONE = json.dumps(EVENT).encode()
LINES = b"\n".join([ONE] * 100)
ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, database: Database, project: TestProject, intake: Intake
) -> AsyncIterator[Client]:
    async with web_client(settings, database, ROUTES, intake=intake) as client:
        client.session.headers.update(project.headers)
        yield client


@pytest.fixture
async def intake(database: Database) -> AsyncIterator[Intake]:
    async with running_intake(database) as intake:
        yield intake


@pytest.fixture
async def client(settings: Settings, database: Database, project: TestProject, intake: Intake) -> AsyncIterator[Client]:
    async with serving(settings, database, project, intake) as client:
        yield client


async def post(client: Client, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.post(path, data=body, headers={"content-type": "application/json", **named}) as response:
        return response.status, json.loads(await response.text())


async def stored(database: Database) -> int:
    async with database.across_projects() as connection:
        number: int = await connection.fetchval("SELECT count(*) FROM events")
    return number


@pytest.mark.parametrize("coding", ENCODERS)
async def test_every_coding_is_read_on_both_paths(
    client: Client, database: Database, intake: Intake, coding: str
) -> None:
    encode = ENCODERS[coding]
    assert (await post(client, "/events", encode(ONE), content_encoding=coding))[0] == 202
    status, answer = await post(client, "/events/batch", encode(b'{"events": [' + ONE + b"]}"), content_encoding=coding)
    assert (status, answer["accepted"]) == (202, 1)
    lines = encode(LINES)
    status, answer = await post(
        client, "/events/batch", lines, content_encoding=coding, content_type="application/x-ndjson"
    )
    assert (status, answer["accepted"]) == (202, 100)
    twice = gzip.compress(encode(ONE))
    assert (await post(client, "/events", twice, content_encoding=f"{coding}, gzip"))[0] == 202
    assert await stored(database) == 103
    assert intake.budget.used == 0


async def test_gzip_without_its_header_is_read(client: Client, database: Database) -> None:
    assert (await post(client, "/events", gzip.compress(ONE)))[0] == 202
    assert (await post(client, "/events/batch", gzip.compress(b"[" + ONE + b"]")))[0] == 202
    assert (await post(client, "/events", ONE, content_encoding="gzip"))[0] == 202
    assert await stored(database) == 3


@pytest.mark.parametrize("path", ["/events", "/events/batch"])
@pytest.mark.parametrize("coding", ENCODERS)
async def test_bombs_and_broken_bodies_are_refused_and_leave_nothing(
    client: Client, database: Database, intake: Intake, coding: str, path: str
) -> None:
    encode = ENCODERS[coding]
    bomb = encode(b'[{"eventType": "x", "payload": {"a": "' + b"x" * 30_000_000 + b'"}}]')
    status, answer = await post(client, path, bomb, content_encoding=coding)
    assert (status, answer["code"]) == (413, "too_large")
    for broken in (encode(LINES)[:-5], encode(LINES)[:40], b"no such encoding"):
        status, answer = await post(
            client, path, broken, content_encoding=coding, content_type="application/octet-stream"
        )
        assert (status, answer["code"]) == (400, "malformed_json"), broken[:50]
    status, answer = await post(
        client,
        "/events/batch",
        encode(LINES)[:-1],
        content_encoding=coding,
        content_type="application/x-ndjson",
    )
    assert (status, answer["code"]) == (400, "malformed_json")
    assert await stored(database) == 0
    assert intake.budget.used == 0


@pytest.mark.parametrize("coding", ["compress", "gzip, lzma", "gzip, gzip, gzip, gzip"])
async def test_codings_that_are_not_read_are_named(client: Client, coding: str) -> None:
    status, answer = await post(client, "/events", gzip.compress(ONE), content_encoding=coding)
    assert (status, answer["code"]) == (415, "unsupported_media_type")
    assert "Content-Encoding" in answer["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_its_limit_is_refused_before_all_of_it_came(
    settings: Settings, client: Client, intake: Intake, project: TestProject, chunked: bool
) -> None:
    size = settings.max_body_bytes + 1
    reader, writer = await connect(client)
    length = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
    writer.write(f"POST /events/batch HTTP/1.1\r\nhost: x\r\nx-api-key: {project.key}\r\n{length}\r\n\r\n".encode())
    writer.write(b"%x\r\n" % (2 * size) + b" " * size if chunked else b" ")
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await eventually(lambda: intake.budget.used == 0)


async def connect(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", client.port)


def head(project: TestProject, length: int) -> bytes:
    lines = ("POST /events/batch HTTP/1.1", "host: x", f"x-api-key: {project.key}", f"content-length: {length}", "", "")
    return "\r\n".join(lines).encode()


async def test_silent_clients_hold_nothing_however_much_they_promise(
    settings: Settings, database: Database, project: TestProject
) -> None:
    async with running_intake(database, most_waiting_bytes=10_000) as intake:
        async with serving(settings, database, project, intake) as client:
            silent = [await connect(client) for _ in range(20)]
            for _, writer in silent:
                writer.write(head(project, 4_000_000))
            for _ in range(10):
                assert (await post(client, "/events", ONE))[0] == 202
            assert intake.budget.used == 0
            for _, writer in silent:
                writer.close()


async def test_a_body_that_trickles_in_is_cut_at_its_deadline(
    client: Client, project: TestProject, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.5)
    reader, writer = await connect(client)
    writer.write(head(project, 1000))
    answer = asyncio.create_task(reader.readline())
    began = time.monotonic()
    while not answer.done():
        writer.write(b" ")
        await asyncio.wait({answer}, timeout=0.05)
        assert time.monotonic() - began < 5
    assert b" 400 " in answer.result()
    assert intake.budget.used == 0
    writer.close()


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    client: Client, project: TestProject, intake: Intake
) -> None:
    _, writer = await connect(client)
    writer.write(head(project, 1000) + b"x" * 900)
    await eventually(lambda: intake.budget.used == 900)
    writer.close()
    await eventually(lambda: intake.budget.used == 0)


async def test_slow_bodies_give_way_to_whole_ones(
    settings: Settings, database: Database, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_budget, "SLOW_SECONDS", 0.0)
    async with running_intake(database, most_waiting_bytes=10_000) as intake:
        async with serving(settings, database, project, intake) as client:
            reader, writer = await connect(client)
            writer.write(head(project, 10_000) + b" " * 9_900)
            await eventually(lambda: intake.budget.used == 9_900)
            assert (await post(client, "/events", ONE))[0] == 202
            assert b" 503 " in await asyncio.wait_for(reader.readline(), 5)
            writer.close()
            assert intake.budget.used == 0


async def test_without_memory_left_requests_are_refused_at_once_and_the_others_answered(
    settings: Settings, database: Database, project: TestProject
) -> None:
    """Nothing leaves the queue until the intake is started: what waits is kept, what comes is refused."""
    intake = new_intake(database, most_waiting_bytes=100_000)
    async with serving(settings, database, project, intake) as client:
        accepted = asyncio.create_task(post(client, "/events/batch", LINES, content_type="application/x-ndjson"))
        await eventually(lambda: intake.budget.used > 40_000)
        for body in (LINES + b"\n" + LINES, ONE[:-1] + b" " * 60_000 + b"}"):
            began = time.monotonic()
            async with client.post(
                "/events/batch", data=body, headers={"content-type": "application/x-ndjson"}
            ) as response:
                answer = await response.json()
            assert (response.status, answer["code"]) == (503, "overloaded")
            assert response.headers["Retry-After"] == "1"
            assert 1 <= int(response.headers["retry-after-ms"]) < 1000
            assert time.monotonic() - began < 2
        await intake.start()
        status, answer = await accepted
        assert (status, answer["accepted"]) == (202, 100)
        assert intake.budget.used == 0
        assert await stored(database) == 100
        await intake.stop()


async def test_a_flood_is_partly_refused_and_all_that_was_accepted_is_stored(
    settings: Settings, database: Database, project: TestProject
) -> None:
    async with running_intake(database, most_waiting_bytes=200_000) as intake:
        async with serving(settings, database, project, intake) as client:
            body = b"[" + b",".join([ONE] * 200) + b"]"
            answers = await asyncio.gather(*(post(client, "/events/batch", body) for _ in range(60)))
            statuses = [status for status, _ in answers]
            assert set(statuses) == {202, 503}
            assert await stored(database) == 200 * statuses.count(202)
            assert intake.budget.used == 0
            assert (await post(client, "/events/batch", body))[0] == 202
