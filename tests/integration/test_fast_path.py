"""The fast path of taking events in: it answers as the views do, in order, and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from boost_streams.listener import is_idle
from boost_streams.settings import Settings
from db.pool import Database
from tests.support.fast_path import (
    BATCH_CASES,
    CASES,
    EVENT,
    Case,
    Site,
    comparable,
    connect,
    exchange,
    read_answer,
    request,
    serving,
)
from tests.support.projects import TestProject, make_project
from tests.support.waiting import eventually
from web import fast_path, ingest_batch
from web.auth import Identity


@pytest.fixture
async def site(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Site]:
    async with serving(settings, database) as site:
        await exchange(site, request(project))  # from here on the key is known
        assert site.path.taken == 0
        yield site


@pytest.mark.parametrize("case", [*CASES, *BATCH_CASES], ids=lambda case: case.name)
async def test_both_ways_answer_alike(site: Site, project: TestProject, case: Case) -> None:
    sent = request(project, **case.options)
    if "messageId" in repr(case.options):
        await exchange(site, sent, in_two=True)
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


async def stored(database: Database) -> list[tuple[str, str]]:
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT event_type, payload FROM events ORDER BY id")
    return [(row["event_type"], row["payload"].decode()) for row in rows]


async def test_a_batch_that_is_taken_is_stored_in_order(site: Site, project: TestProject, database: Database) -> None:
    before = await stored(database)
    events = [{"eventType": f"t{number}", "payload": {"n": number}} for number in range(150)]
    bad = {"eventType": "bad", "payload": 1}
    answer = await exchange(site, request(project, [*events[:70], bad, *events[70:]], target="/events/batch"))
    assert site.path.taken == 1
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (body["accepted"], body["rejected"]) == (150, 1)
    assert [result["index"] for result in body["results"]] == list(range(151))
    assert body["results"][70] == {
        "index": 70, "code": "invalid", "message": "payload: must be a JSON object", "field": "payload"
    }  # fmt: skip
    assert (await stored(database))[len(before) :] == [(f"t{n}", f'{{"n": {n}}}') for n in range(150)]
    ids = [result["id"] for result in body["results"] if "id" in result]
    async with database.across_projects() as connection:
        rows = await connection.fetch("SELECT id, event_type FROM events WHERE event_type LIKE 't%'")
    assert {str(row["id"]): row["event_type"] for row in rows} == {id: f"t{n}" for n, id in enumerate(ids)}


async def test_what_fails_unforeseen_is_answered_and_holds_no_connection(
    site: Site, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    reader, writer = await connect(site)
    with monkeypatch.context() as patch:
        patch.setattr(fast_path, "batch_answer", fails)
        writer.write(request(project, [EVENT], target="/events/batch"))
        answer = await read_answer(reader)
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b'"code":"internal"' in answer
        assert b"an answer could not" not in answer
        patch.setattr(fast_path, "read_batch", fails)  # this one is left to the view
        writer.write(request(project, [EVENT], target="/events/batch"))
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.write(request(project, [EVENT], target="/events/batch"))
    assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.close()
    assert site.path.taken == 2
    assert site.intake.budget.used == 0


@pytest.mark.parametrize("sent", [{}, {"event": [EVENT], "target": "/events/batch"}], ids=["one", "batch"])
async def test_a_body_over_the_limit_of_the_settings_is_left_to_the_view(
    settings: Settings, database: Database, project: TestProject, sent: dict[str, Any]
) -> None:
    whole = request(project, **sent)
    async with serving(settings.model_copy(update={"max_body_bytes": 30}), database) as site:
        await site.known.identify(project.key)
        assert (await exchange(site, whole)).startswith(b"HTTP/1.1 413 ")
        assert site.path.taken == 0


async def long_answer_not_read(site: Site, project: TestProject) -> tuple[Any, ...]:
    """Send a batch whose answer is longer than what its connection may hold; return both ends and the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    await eventually(lambda: len(site.server.handler.connections) == 1)
    (connection,) = site.server.handler.connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = b"[" + json.dumps(EVENT).encode() + b",1" * 1_500 + b"]"
    writer.write(request(project, body=body, target="/events/batch"))
    await eventually(lambda: connection.writing_paused)
    assert site.path.taken == 1
    return reader, writer, connection


async def test_an_answer_that_the_client_does_not_read_yet_is_waited_for(site: Site, project: TestProject) -> None:
    reader, writer, connection = await long_answer_not_read(site, project)
    assert not is_idle(connection)
    closing = asyncio.create_task(site.server.close())
    await asyncio.sleep(0.2)  # a server that does not wait would be closed by now
    assert not closing.done()
    answer = await read_answer(reader)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["rejected"] == 1_500
    await closing
    writer.close()


async def test_behind_a_long_answer_the_next_request_is_answered(site: Site, project: TestProject) -> None:
    reader, writer, _ = await long_answer_not_read(site, project)
    writer.write(request(project, X_Request_Id="next"))
    assert b'"rejected":1500' in await read_answer(reader)
    assert b"X-Request-Id: next\r\n" in await read_answer(reader)
    writer.close()


async def test_who_leaves_without_reading_an_answer_holds_nothing(site: Site, project: TestProject) -> None:
    _, writer, connection = await long_answer_not_read(site, project)
    writer.transport.abort()
    await eventually(lambda: not site.server.handler.connections)
    assert is_idle(connection)
    assert site.intake.budget.used == 0


async def test_where_memory_is_short_a_batch_is_refused_before_it_is_read(
    site: Site, project: TestProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(fast_path, "read_batch", lambda *_: read.append("on the fast path"))
    monkeypatch.setattr(ingest_batch, "read_batch", lambda *_: read.append("in the view"))
    taken = site.intake.budget.most
    site.intake.budget.take(taken)
    sent = request(project, [EVENT] * 50, target="/events/batch")
    fast, slow = await exchange(site, sent), await exchange(site, sent, in_two=True)
    assert fast.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after-ms: 200\r\n" in fast
    assert comparable(fast) == comparable(slow)
    assert site.path.taken == 0
    assert site.intake.budget.used == taken
    assert read == []


@pytest.mark.parametrize("sent", [{}, {"event": [EVENT, EVENT], "target": "/events/batch"}], ids=["one", "batch"])
async def test_a_refusal_by_the_database_is_answered_alike(
    site: Site, project: TestProject, monkeypatch: pytest.MonkeyPatch, sent: dict[str, Any]
) -> None:
    gone = Identity(uuid4(), uuid4(), ("ingest",))

    async def identify(_: str) -> Identity:
        return gone

    monkeypatch.setattr(site.known, "known", lambda _: gone)
    monkeypatch.setattr(site.known, "identify", identify)
    whole = request(project, **sent)
    fast, slow = await exchange(site, whole), await exchange(site, whole, in_two=True)
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


async def test_what_comes_behind_the_last_answer_is_not_taken(
    site: Site, project: TestProject, database: Database
) -> None:
    loop, failures = asyncio.get_running_loop(), list[str]()
    loop.set_exception_handler(lambda _, context: failures.append(str(context)))
    reader, writer = await connect(site)
    async with commits_held(database):
        writer.write(request(project))
        await waits(site, 1)
        writer.write(request(project, {**EVENT, "messageId": "behind"}))
        await asyncio.sleep(0.1)  # it is parsed, and waits behind the one under way
        site.draining.append(True)
    assert b"Connection: close\r\n" in await read_answer(reader)
    assert await reader.read() == b""
    writer.close()
    gc.collect()  # a task that failed says so when it goes
    assert failures == []
    assert b'"duplicate"' not in await exchange(site, request(project, {**EVENT, "messageId": "behind"}))


async def test_a_worker_that_stops_leaves_everything_to_the_view(site: Site, project: TestProject) -> None:
    site.draining.append(True)
    assert (await exchange(site, request(project)))[9:12] == b"202"
    assert site.path.taken == 0
