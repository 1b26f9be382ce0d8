"""What is not HTTP is answered in the shape of all errors, its connection ends, and what it held is told to nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest

from boost_streams.settings import Settings
from db.pool import Database
from tests.support.fast_path import Site, connect, read_answer, request, serving
from tests.support.projects import TestProject


@pytest.fixture
async def site(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Site]:
    async with serving(settings, database) as site:
        yield site


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
    capsys: pytest.CaptureFixture[str],
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
    logged = "".join(capsys.readouterr())
    assert f"request_id={error['requestId']}" in logged
    assert "bst_live" not in error["message"] + logged + caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_it_costs_the_request_ahead_of_it_nothing(site: Site, project: TestProject) -> None:
    reader, writer = await connect(site)
    writer.write(request(project))
    assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.write(b"\x16\x03\x01\r\n\r\n")
    assert (await read_answer(reader)).startswith(b"HTTP/1.0 400 ")
    assert await reader.read() == b""
    writer.close()
