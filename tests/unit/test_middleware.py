"""What is raised becomes an answer: our errors, aiohttp's, bugs; and nothing of a payload or key gets out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp.web
import pytest
from aiohttp.test_utils import TestClient, TestServer

from boost_streams import errors
from tests.support.waiting import eventually
from web import middleware
from web.middleware import MIDDLEWARES, frames_of

Request = aiohttp.web.Request
Client = TestClient[Request, aiohttp.web.Application]
Serve = Callable[..., Awaitable[Client]]
SECRET = "bst_live_secret_payload"


class Log:
    """Collects what the middleware logs."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event, **fields})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(middleware, "_log", made)
    return made


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve one handler under `/thing/{id}`; lend a client."""
    clients: list[Client] = []

    async def start(handler: Any, method: str = "POST", **options: Any) -> Client:
        app = aiohttp.web.Application(middlewares=MIDDLEWARES, **options)
        app.router.add_route(method, "/thing/{id}", handler)
        client: Client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


def raising(error: BaseException) -> Any:
    async def handler(_: Request) -> aiohttp.web.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.MalformedJson("x"), 400, "malformed_json"),
        (errors.Unauthorized("x"), 401, "unauthorized"),
        (errors.Forbidden("x"), 403, "forbidden"),
        (errors.NotFound("x"), 404, "not_found"),
        (errors.Conflict("x"), 409, "conflict"),
        (errors.TooLarge("x"), 413, "too_large"),
        (errors.UnsupportedMediaType("x"), 415, "unsupported_media_type"),
        (errors.Invalid("x"), 422, "invalid"),
        (errors.RateLimited("x"), 429, "rate_limited"),
        (errors.Overloaded("x"), 503, "overloaded"),
        (errors.Unavailable("x"), 503, "unavailable"),
    ],
)
async def test_our_errors(serve: Serve, log: Log, error: errors.BoostError, status: int, code: str) -> None:
    answer = await (await serve(raising(error))).post("/thing/1")
    body = await answer.json()
    assert answer.status == status
    assert body == {"code": code, "message": "x", "requestId": answer.headers["X-Request-Id"]}
    assert answer.content_type == "application/json"
    assert not log.lines


async def test_field_errors_are_named(serve: Serve) -> None:
    answer = await (await serve(raising(errors.Invalid.field("userId", "too long")))).post("/thing/1")
    assert (await answer.json())["errors"] == [{"field": "userId", "message": "too long"}]


@pytest.mark.parametrize(
    ("seconds", "headers"),
    [
        (None, (None, None)),
        (0, ("1", "1")),
        (0.25, ("1", "250")),
        (1, ("1", None)),
        (1.2, ("2", None)),
        (30, ("30", None)),
    ],
)
async def test_when_to_come_again(serve: Serve, seconds: float | None, headers: tuple[str | None, ...]) -> None:
    answer = await (await serve(raising(errors.Overloaded("x", retry_after=seconds)))).post("/thing/1")
    assert (answer.headers.get("Retry-After"), answer.headers.get("retry-after-ms")) == headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/nothing", 404, "not_found"),
        ("GET", "/thing/1", 405, "method_not_allowed"),
        ("PATCH", "/thing/1", 405, "method_not_allowed"),
    ],
)
async def test_what_the_router_refuses(serve: Serve, method: str, path: str, status: int, code: str) -> None:
    answer = await (await serve(raising(ZeroDivisionError()))).request(method, path)
    assert answer.status == status
    assert (await answer.json())["code"] == code
    assert answer.headers.get("Allow") == ("POST" if status == 405 else None)


async def test_a_body_over_the_applications_limit(serve: Serve) -> None:
    async def read(request: Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=await request.read())

    client = await serve(read, client_max_size=1024)
    answer = await client.post("/thing/1", data=b"x" * 2000)
    assert (answer.status, (await answer.json())["code"]) == (413, "too_large")


async def test_a_body_that_is_not_what_its_encoding_says(serve: Serve, log: Log) -> None:
    async def read(request: Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(body=await request.read())

    client = await serve(read)
    headers = {"Content-Encoding": "gzip"}
    answer = await client.post("/thing/1", data=b"this is not gzip", headers=headers)
    assert (answer.status, (await answer.json())["code"]) == (400, "malformed_json")
    assert not log.lines


async def test_redirects_pass(serve: Serve) -> None:
    client = await serve(raising(aiohttp.web.HTTPFound("/elsewhere")))
    answer = await client.post("/thing/1", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "error", [ValueError(SECRET), TimeoutError(SECRET), ConnectionResetError(SECRET), errors.BrokerAway(SECRET)]
)
async def test_a_bug_is_500_and_says_nothing(serve: Serve, log: Log, error: Exception) -> None:
    client = await serve(raising(error))
    answer = await client.post(f"/thing/{SECRET}?key={SECRET}", json={"secret": SECRET})
    body = await answer.json()
    assert (answer.status, body["code"]) == (500, "internal")
    assert SECRET not in str(body)
    (line,) = log.lines
    assert line["action"] == "request_failed"
    assert line["path"] == "/thing/{id}"
    assert "in handler" in line["frames"]
    assert type(error).__name__ in line["frames"]
    assert SECRET not in str(line)


def test_frames_follow_causes() -> None:
    def inner() -> None:
        raise ValueError(SECRET)

    try:
        try:
            inner()
        except ValueError as error:
            raise KeyError(SECRET) from error
    except KeyError as caught:
        frames = frames_of(caught)
    assert "builtins.KeyError" in frames
    assert "in inner" in frames
    assert "builtins.ValueError" in frames
    assert SECRET not in frames


@pytest.mark.parametrize("given", ["abc-123", "0123456789abcdef", "a" * 128])
async def test_a_sane_request_id_is_kept(serve: Serve, given: str) -> None:
    async def answer_ok(_: Request) -> aiohttp.web.Response:
        return aiohttp.web.Response()

    answer = await (await serve(answer_ok)).post("/thing/1", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "é", "a" * 129, "<script>"])
async def test_another_request_id_is_replaced(serve: Serve, given: str) -> None:
    answer = await (await serve(raising(errors.NotFound("x")))).post("/thing/1", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] not in ("", given)
    assert len(answer.headers["X-Request-Id"]) == 24


async def test_a_client_that_leaves_is_no_error(serve: Serve, log: Log) -> None:
    ended = asyncio.Event()

    async def read(request: Request) -> aiohttp.web.Response:
        try:
            return aiohttp.web.Response(body=await request.read())
        finally:
            ended.set()

    client = await serve(read)
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"POST /thing/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly a part")
    await writer.drain()
    writer.close()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)
    assert not log.lines


async def test_an_answer_under_way_is_cut_off_not_mixed_with_another(serve: Serve, log: Log) -> None:
    async def stream(request: Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first part")
        raise ValueError(SECRET)

    client = await serve(stream)
    answer = await client.post("/thing/1")
    assert answer.status == 200
    with pytest.raises(aiohttp.ClientPayloadError):
        await answer.read()
    await eventually(lambda: log.lines)


@pytest.mark.parametrize("error", [errors.Unavailable("x"), aiohttp.web.HTTPNotFound(), ValueError(SECRET)])
@pytest.mark.usefixtures("log", "no_search_for_cycles")
async def test_an_error_that_is_answered_keeps_nothing_of_the_request(serve: Serve, error: Exception) -> None:
    class InHand:
        pass

    kept: list[weakref.ref[InHand]] = []

    async def handler(_: Request) -> aiohttp.web.Response:
        in_hand, answer = InHand(), error
        kept.append(weakref.ref(in_hand))
        raise answer

    client = await serve(handler)
    assert (await client.post("/thing/1")).status >= 400
    await eventually(lambda: kept[0]() is None)
