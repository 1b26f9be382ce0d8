"""What is not HTTP is answered in the shape of all errors, its connection ends, and what it held is told to nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from boost_streams.settings import Settings
from db.pool import Database
from tests.support.fast_path import Site, connect, read_answer, request, serving
from tests.support.projects import TestProject
from tests.support.waiting import eventually
from web import connection as connection_module
from web.connection import HttpConnection


@pytest.fixture
async def site(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Site]:
    async with serving(settings, database) as site:
        yield site


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the module logs, however logging is set up by now."""
    lines: list[dict[str, Any]] = []

    def at(level: str) -> Any:
        return lambda event, **fields: lines.append({"level": level, "event": event, **fields})

    monkeypatch.setattr(connection_module, "_log", SimpleNamespace(info=at("info"), error=at("error")))
    return lines


_KEY = b"bst_live_abcdefghijklmnopqrstuvwxyz0123456789"
_TOO_LONG = b"GET / HTTP/1.1\r\nHost: x\r\nx-api-key: " + _KEY * 400 + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code", "says"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client hello of TLS\r\n\r\n", 400, "malformed_json", "HTTP"),
        (b"POST /events FTP/1.1\r\n\r\n", 400, "malformed_json", "HTTP"),
        (b"POST /events HTTP/1.1\r\nx-api-key " + _KEY + b"\r\n\r\n", 400, "malformed_json", "HTTP"),
        (b"POST /events HTTP/1.1\r\nx-api-key: " + _KEY + b"\x00\r\n\r\n", 400, "malformed_json", "HTTP"),
        (b"POST /events HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400, "malformed_json", "HTTP"),
        (_TOO_LONG, 413, "too_large", "longer than 8190 bytes"),
    ],
    ids=["TLS", "no HTTP", "no colon", "NUL", "length", "too long"],
)
async def test_it_is_answered_as_any_error(
    site: Site,
    sent: bytes,
    status: int,
    code: str,
    says: str,
    caplog: pytest.LogCaptureFixture,
    said: list[dict[str, Any]],
) -> None:
    caplog.set_level(logging.DEBUG)
    reader, writer = await connect(site)
    writer.write(sent)
    head, _, body = (await read_answer(reader)).partition(b"\r\n\r\n")
    error = json.loads(body)
    assert head.startswith(b"HTTP/1.0 %d " % status)  # what the client speaks is not known
    assert b"Content-Type: application/json" in head
    assert f"X-Request-Id: {error['requestId']}".encode() in head
    assert error["code"] == code
    assert says in error["message"]
    assert await reader.read() == b""
    writer.close()
    (line,) = said
    assert (line["level"], line["action"], line["request_id"]) == ("info", "not_http", error["requestId"])
    assert "bst_live" not in f"{error} {said} {caplog.text}"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_what_a_client_expects_and_is_not_understood_is_named(site: Site, project: TestProject) -> None:
    reader, writer = await connect(site)
    writer.write(request(project, Expect="bst_live_secret"))
    head, _, body = (await read_answer(reader)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 422 ")
    assert json.loads(body)["errors"] == [{"field": "Expect", "message": "only 100-continue is understood"}]
    assert b"bst_live" not in head + body
    writer.write(request(project))
    assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_it_is_answered_behind_a_request_that_is_under_way(
    site: Site, project: TestProject, database: Database
) -> None:
    reader, writer = await connect(site)
    async with database.across_projects() as connection, connection.transaction():
        await connection.execute("LOCK TABLE event_batches IN SHARE MODE")
        writer.write(request(project))
        await eventually(lambda: site.intake.budget.used > 0)
        (connection_there,) = site.server.handler.connections
        writer.write(b"\x16\x03\x01\r\n\r\n")
        await eventually(lambda: len(connection_there._messages) == 1)  # read, and waits for its turn
    assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    assert (await read_answer(reader)).startswith(b"HTTP/1.0 400 ")
    writer.close()


def _failed(output_size: int, error: Exception) -> Any:
    request = SimpleNamespace(writer=SimpleNamespace(output_size=output_size))
    return HttpConnection.handle_error(None, request, 500, error)  # type: ignore[arg-type]


def test_what_fails_outside_the_middlewares_is_a_defect(said: list[dict[str, Any]]) -> None:
    answer = _failed(0, RuntimeError("bst_live_secret"))
    assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal")
    (line,) = said
    assert (line["level"], line["action"]) == ("error", "request_failed")
    assert "bst_live" not in f"{said} {answer.text}"


@pytest.mark.parametrize(
    ("output_size", "error"), [(10, RuntimeError()), (0, ConnectionResetError("the client is gone"))]
)
def test_nothing_is_answered_twice_or_to_nobody(output_size: int, error: Exception) -> None:
    with pytest.raises(ConnectionError):
        _failed(output_size, error)


async def test_it_costs_the_request_ahead_of_it_nothing(site: Site, project: TestProject) -> None:
    reader, writer = await connect(site)
    writer.write(request(project))
    assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.write(b"\x16\x03\x01\r\n\r\n")
    assert (await read_answer(reader)).startswith(b"HTTP/1.0 400 ")
    assert await reader.read() == b""
    writer.close()
