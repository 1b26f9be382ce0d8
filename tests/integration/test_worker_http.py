"""A whole worker, on the in-process broker and on Kafka: what a client sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import brotli
import pytest
from backports import zstd

from boost_streams.embedded.broker import EmbeddedBroker
from db.pool import Database
from tests.support.projects import TestProject, make_project
from tests.support.proxy import fault_proxy
from tests.support.waiting import eventually
from tests.support.workers import ROOT, WorkerProcess


@dataclass(frozen=True)
class Broker:
    """A broker and the settings that a worker needs for it."""

    bootstrap: str
    settings: dict[str, str]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """What holds on the in-process broker holds on Kafka."""
    if request.param == "kafka":
        prefix = f"t{uuid4().hex[:8]}-"
        yield Broker(request.getfixturevalue("kafka").bootstrap, {"KAFKA_TOPIC_PREFIX": prefix})
        return
    embedded = EmbeddedBroker()
    embedded.start()
    yield Broker(embedded.bootstrap, {"BOOST_EMBEDDED_BROKER": "true"})
    embedded.stop()


@pytest.fixture
async def worker(broker: Broker, database_url: str) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(environment_of(broker, database_url))
    worker.start()
    await worker.ready()
    yield worker
    worker.stop()


@pytest.fixture
async def client(project: TestProject) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers=project.headers, timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def environment_of(broker: Broker, database_url: str, **changes: str) -> dict[str, str]:
    return {
        "NODE_ENV": "test",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": broker.bootstrap,
        "REDIS_URL": "",
        **broker.settings,
        "LOG_FORMAT": "json",
        "SWEEP_STUCK_AFTER_SECONDS": "5",
        "SWEEP_INTERVAL_SECONDS": "1",
        **changes,
    }


async def count(database: Database, table: str) -> int:
    async with database.across_projects() as connection:
        number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return number


async def status_of(client: aiohttp.ClientSession, worker: WorkerProcess, event_id: str) -> dict[str, Any]:
    async with client.get(f"{worker.url}/events/{event_id}") as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
    return answer


async def test_an_event_from_the_request_to_processed(
    worker: WorkerProcess, client: aiohttp.ClientSession, database: Database, project: TestProject
) -> None:
    body = {
        "eventType": "page_view",
        "payload": {"url": "https://shop.example/a?utm_source=mail"},
        "userId": "u-1",
        "timestamp": "2026-01-31T12:00:00+02:00",
    }
    async with client.post(f"{worker.url}/events", json=body) as response:
        assert response.status == 202
        answer = await response.json()
    assert answer == {"id": answer["id"], "status": "pending"}

    async def processed() -> bool:
        return (await status_of(client, worker, answer["id"]))["status"] == "processed"

    await eventually(processed, deadline=10)
    event = await status_of(client, worker, answer["id"])
    assert event["payload"] == body["payload"]
    assert event["occurredAt"].startswith("2026-01-31T10:00:00")
    assert event["error"] is None

    async def live() -> bool:
        async with client.get(f"{worker.url}/live/counts") as response:
            counts = await response.json()
        assert counts["approximate"] is True
        return [(m["eventType"], m["processed"], m["failed"]) for m in counts["minutes"]] == [("page_view", 1, 0)]

    await eventually(live, deadline=10)
    other = await make_project(database, "other")
    async with aiohttp.ClientSession(headers=other.headers) as stranger:
        async with stranger.get(f"{worker.url}/events/{answer['id']}") as response:
            assert response.status == 404
        async with stranger.get(f"{worker.url}/live/counts") as response:
            assert (await response.json())["minutes"] == []


async def test_a_message_id_sent_twice(
    worker: WorkerProcess, client: aiohttp.ClientSession, database: Database
) -> None:
    body = {"eventType": "x", "payload": {}, "messageId": "m-1"}
    answers = []
    for _ in range(2):
        async with client.post(f"{worker.url}/events", json=body) as response:
            assert response.status == 202
            answers.append(await response.json())
    assert answers[1] == {"id": answers[0]["id"], "status": "pending", "duplicate": True}
    assert await count(database, "events") == 1


async def test_a_failed_event_can_be_retried(worker: WorkerProcess, client: aiohttp.ClientSession) -> None:
    async with client.post(f"{worker.url}/events", json={"eventType": "page_view", "payload": {}}) as response:
        event_id = (await response.json())["id"]

    async def failed_at(attempt: int) -> bool:
        event = await status_of(client, worker, event_id)
        return (event["status"], event["attempt"]) == ("failed", attempt)

    await eventually(lambda: failed_at(0), deadline=10)
    assert (await status_of(client, worker, event_id))["error"]["field"] == "url"
    async with client.post(f"{worker.url}/events/{event_id}/retry") as response:
        assert response.status in (200, 202)
    await eventually(lambda: failed_at(1), deadline=15)


BAD_BODIES: list[tuple[bytes, dict[str, str], set[int]]] = [
    (b"", {}, {400}),
    (b"{", {}, {400}),
    (b"null", {}, {422}),
    (b"[1]", {}, {422}),
    (b'{"eventType": "x"}', {}, {422}),
    (b'{"eventType": " ", "payload": {}}', {}, {422}),
    (b'{"eventType": "x", "payload": {}, "nope": 1}', {}, {422}),
    (b'{"eventType": "x", "payload": {"a": "\\u0000"}}', {}, {422}),
    (b'{"eventType": "x", "payload": {"a": "\\ud800"}}', {}, {400, 422}),
    (b'{"eventType": "x", "payload": {"a": "\xff"}}', {}, {400, 422}),
    (b'{"eventType": "x", "payload": {"a": NaN}}', {}, {400}),
    (b'{"eventType": "x", "payload": {"a": 1e999}}', {}, {422}),
    (b'{"eventType": "x", "payload": {"a": 1e-99999}}', {}, {422}),
    (b'{"eventType": "x", "payload": {"a": "line\nbreak"}}', {}, {400, 422}),
    (b'{"eventType": "x", "payload": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", {}, {400, 422}),
    (b'{"eventType": "x", "payload": {"a": "' + b"x" * 70_000 + b'"}}', {}, {413}),
    (b"x" * 5_000_000, {}, {413}),
    (b'{"eventType": "x", "payload": {}, "timestamp": "soon"}', {}, {422}),
    (b'{"eventType": "x", "payload": {}, "userId": "' + b"u" * 300 + b'"}', {}, {422}),
    (b"eventType=x", {"content-type": "application/xml"}, {415}),
    (
        gzip.compress(b'{"eventType": "x", "payload": {"a": "' + b"x" * 50_000_000 + b'"}}'),
        {"content-encoding": "gzip"},
        {400, 413},
    ),
    (b"not gzip at all", {"content-encoding": "gzip"}, {400, 415}),
]


async def test_bad_input_is_refused_and_stores_nothing(
    worker: WorkerProcess, client: aiohttp.ClientSession, database: Database
) -> None:
    for body, headers, expected in BAD_BODIES:
        async with client.post(f"{worker.url}/events", data=body, headers=headers) as response:
            text = await response.text()
            assert response.status in expected, (body[:80], response.status, text[:300])
            answer = json.loads(text)
        assert {"code", "message", "requestId"} <= set(answer), answer
        if response.status == 422:
            assert answer["errors"], answer
            assert all(set(problem) == {"field", "message"} for problem in answer["errors"])
    async with client.get(worker.url) as response:  # Faust's own, as docs/reference/http.md says
        assert (response.status, await response.json()) == (200, {"status": "OK"})
    for path in ("/events/not-a-uuid", "/events/" + str(uuid4())):
        async with client.get(worker.url + path) as response:
            assert response.status == 404
    async with aiohttp.ClientSession() as nobody:
        for headers in (
            {},
            {"x-api-key": "bst_live_x"},
            {"x-api-key": "pk_live_" + "0" * 64},
            {"Authorization": "Bearer é"},
        ):
            async with nobody.post(f"{worker.url}/events", data=b"{}", headers=headers) as response:
                assert response.status == 401, headers
    assert await count(database, "events") == 0
    assert await count(database, "event_batches") == 0
    errors = [line for line in worker.log.read_text().splitlines() if '"level": "error"' in line]
    # A broker that has just been made has no coordinator of groups for a moment, as the worker's consumer tells.
    assert [line for line in errors if "GroupCoordinatorNotAvailableError" not in line] == []


async def test_sigterm_answers_what_is_in_flight_and_ends_quickly(
    worker: WorkerProcess, client: aiohttp.ClientSession, database: Database
) -> None:
    statuses: list[int] = []
    refused = 0

    async def send() -> None:
        nonlocal refused
        try:
            async with client.post(f"{worker.url}/events", json={"eventType": "x", "payload": {}}) as response:
                statuses.append(response.status)
        except aiohttp.ClientConnectorError:
            refused += 1

    async def stream() -> None:
        while not refused:
            await send()

    senders = [asyncio.create_task(stream()) for _ in range(8)]
    await eventually(lambda: len(statuses) > 50, deadline=10)
    took = await worker.terminate()
    await asyncio.gather(*senders, return_exceptions=True)
    assert took < 10
    assert worker.process is not None
    assert worker.process.returncode == 0
    assert set(statuses) <= {202, 503}
    assert await count(database, "events") == statuses.count(202)
    assert await count(database, "workers") == 0


async def test_sigterm_while_a_client_sends_half_a_body(worker: WorkerProcess, project: TestProject) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    head = f"POST /events HTTP/1.1\r\nhost: x\r\nx-api-key: {project.key}\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"eventType":')
    await writer.drain()
    took = await worker.terminate()
    writer.close()
    assert worker.process is not None
    assert worker.process.returncode == 0
    assert took < 8


async def test_a_worker_on_a_database_without_tables_stays_up_and_says_why(
    broker: Broker, empty_database_url: str
) -> None:
    worker = WorkerProcess(environment_of(broker, empty_database_url, SWEEP_INTERVAL_SECONDS="0.5"))
    worker.start()
    try:

        async def says_why() -> bool:
            try:
                async with aiohttp.ClientSession() as client, client.get(f"{worker.url}/health/ready") as response:
                    return response.status == 503 and "boost migrate" in await response.text()
            except aiohttp.ClientConnectorError:
                return False

        await eventually(says_why, deadline=15)
        await eventually(lambda: worker.log.read_text().count("housekeeping failed") > 3, deadline=15)
        assert worker.process is not None
        assert worker.process.poll() is None
        assert await says_why()
    finally:
        worker.stop()


async def test_a_web_only_worker_needs_no_partitions(broker: Broker, database_url: str, project: TestProject) -> None:
    worker = WorkerProcess(environment_of(broker, database_url, BOOST_ROLES="web"))
    worker.start()
    try:
        await worker.ready()
        async with aiohttp.ClientSession(headers=project.headers) as client:
            async with client.post(f"{worker.url}/events", json={"eventType": "x", "payload": {}}) as response:
                assert response.status == 202
        assert "assignment" not in worker.log.read_text()
    finally:
        worker.stop()


async def test_a_worker_started_without_a_broker_takes_events(
    broker: Broker, database_url: str, database: Database, project: TestProject
) -> None:
    worker = WorkerProcess(environment_of(broker, database_url, KAFKA_BROKER="127.0.0.1:1"))
    worker.start()
    try:
        async with aiohttp.ClientSession(headers=project.headers) as client:

            async def accepted() -> bool:
                try:
                    async with client.post(f"{worker.url}/events", json={"eventType": "x", "payload": {}}) as response:
                        return response.status == 202
                except aiohttp.ClientConnectorError:
                    return False

            await eventually(accepted, deadline=15)
            async with client.get(f"{worker.url}/health/ready") as response:
                assert response.status == 503
                assert (await response.json())["parts"]["broker"] != "ok"
    finally:
        worker.stop()
    assert await count(database, "event_batches") == 1


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_sigterm_while_the_broker_is_away(database_url: str, signal_number: int) -> None:
    worker = WorkerProcess(
        {"NODE_ENV": "test", "DATABASE_URL": database_url, "KAFKA_BROKER": "127.0.0.1:1", "REDIS_URL": ""}
    )
    worker.start()
    try:
        await eventually(lambda: "broker_wait" in worker.log.read_text(), deadline=15)
        assert worker.process is not None
        worker.process.send_signal(signal_number)
        await eventually(lambda: worker.process and worker.process.poll() is not None, deadline=10)
    finally:
        worker.stop()


def test_wrong_settings_end_a_worker_with_code_2_and_no_traceback() -> None:
    environment = {
        **os.environ,
        "NODE_ENV": "production",
        "DATABASE_URL": "postgresql://user:hunter2@localhost/db",
        "KAFKA_BROKER": "nonsense",
        "PORT": "many",
    }
    for command in (
        [sys.executable, "-m", "faust", "-A", "boost_streams.worker", "worker", "-l", "info"],
        [sys.executable, "-c", "from boost_streams.cli.main import cli; cli()", "worker"],
    ):
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        assert "hunter2" not in ended.stderr
        for variable in ("DATABASE_URL", "KAFKA_BROKER", "PORT", "REDIS_URL"):
            assert variable in ended.stderr


async def test_sigterm_while_postgresql_is_frozen(broker: Broker, database_url: str, project: TestProject) -> None:
    """Nothing can be settled, released or said good-bye to: the worker ends all the same, and says nothing false."""
    parts = urlsplit(database_url)
    async with fault_proxy(parts.hostname or "", parts.port or 0) as proxy:
        through = parts._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()
        worker = WorkerProcess(environment_of(broker, through))
        worker.start()
        try:
            await worker.ready()
            proxy.freeze()
            async with aiohttp.ClientSession(headers=project.headers) as client:
                body = {"eventType": "x", "payload": {}}
                sending = asyncio.create_task(client.post(f"{worker.url}/events", json=body))
                await asyncio.wait({sending}, timeout=0.2)  # it is under way, and cannot be answered
                took = await worker.terminate(deadline=12)
                with contextlib.suppress(aiohttp.ClientError):
                    assert (await sending).status == 503
            assert took < 10
        finally:
            proxy.thaw()
            worker.stop()


async def test_postgresql_away_is_answered_503_soon_and_all_goes_on_by_itself(
    broker: Broker, database_url: str, database: Database, project: TestProject
) -> None:
    parts = urlsplit(database_url)
    async with fault_proxy(parts.hostname or "", parts.port or 0) as proxy:
        through = parts._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()
        worker = WorkerProcess(environment_of(broker, through))
        worker.start()
        try:
            await worker.ready()
            async with aiohttp.ClientSession(headers=project.headers) as client:

                async def send() -> aiohttp.ClientResponse:
                    return await client.post(f"{worker.url}/events", json={"eventType": "x", "payload": {}})

                assert (await send()).status == 202
                proxy.refuse()
                proxy.cut()

                async def refused() -> bool:
                    response = await send()
                    return response.status == 503 and int(response.headers["Retry-After"]) >= 1

                await eventually(refused, deadline=10)
                proxy.refuse(False)

                async def accepted() -> bool:
                    return (await send()).status == 202

                await eventually(accepted, deadline=10)

            async def settled() -> bool:
                async with database.across_projects() as connection:
                    return await connection.fetchval("SELECT count(*) FROM events WHERE status = 'pending'") == 0

            await eventually(settled, deadline=20)
        finally:
            worker.stop()


async def test_batches_in_every_encoding_from_the_request_to_processed(
    worker: WorkerProcess, client: aiohttp.ClientSession, database: Database
) -> None:
    lines = b"\n".join(
        json.dumps({"eventType": "page_view", "payload": {"url": f"/{number}"}, "messageId": f"m-{number}"}).encode()
        for number in range(300)
    )
    encoded = {"gzip": gzip.compress(lines), "deflate": zlib.compress(lines), "br": brotli.compress(lines)}
    encoded |= {"zstd": zstd.compress(lines), "identity": lines}
    ids: set[str] = set()
    for coding, body in encoded.items():
        headers = {"content-encoding": coding, "content-type": "application/x-ndjson"}
        async with client.post(f"{worker.url}/events/batch", data=body, headers=headers) as response:
            answer = await response.json()
        assert (response.status, answer["accepted"]) == (202, 300), coding
        ids |= {result["id"] for result in answer["results"]}
    assert len(ids) == await count(database, "events") == 300

    async def processed() -> bool:
        async with database.across_projects() as connection:
            return await connection.fetchval("SELECT count(*) FROM events WHERE status = 'processed'") == 300

    await eventually(processed, deadline=20)
    bomb = zstd.compress(b"[" + b" " * 100_000_000 + b"]")
    async with client.post(f"{worker.url}/events/batch", data=bomb, headers={"content-encoding": "zstd"}) as response:
        assert response.status == 413


async def test_a_worker_whose_port_is_taken_says_so_and_ends_with_1(broker: Broker, database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **environment_of(broker, database_url),
            "LOG_FORMAT": "json",
            "HOST": "127.0.0.1",
            "PORT": str(taken.getsockname()[1]),
        }
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "faust", "-A", "boost_streams.worker", "worker", "-l", "info"),
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await asyncio.wait_for(worker.communicate(), 30))[0].decode()
    assert worker.returncode == 1, output
    assert "choose another HOST or PORT" in output
    assert "Traceback" not in output
    assert all(json.loads(line)["action"] for line in output.splitlines())
