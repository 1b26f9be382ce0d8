"""A whole worker: what fails becomes a dead letter, what is replayed comes back, what nobody can read is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.records import UnreadBatch
from db.batches import record_of_row
from db.pool import Database
from tests.support.letters import fetch
from tests.support.projects import TestProject
from tests.support.records import as_bytes
from tests.support.stored_events import store
from tests.support.waiting import eventually
from tests.support.workers import WorkerProcess


@pytest.fixture
def broker() -> Iterator[str]:
    embedded = EmbeddedBroker()
    embedded.start()
    yield embedded.bootstrap
    embedded.stop()


@pytest.fixture
async def worker(broker: str, database_url: str) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(
        {
            "NODE_ENV": "test",
            "DATABASE_URL": database_url,
            "KAFKA_BROKER": broker,
            "BOOST_EMBEDDED_BROKER": "true",
            "REDIS_URL": "",
            "LOG_FORMAT": "json",
        }
    )
    worker.start()
    await worker.ready()
    yield worker
    worker.stop()


async def ask(
    session: aiohttp.ClientSession, worker: WorkerProcess, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    async with session.request(method, worker.url + path, json=body) as response:
        assert response.status < 300, await response.text()
        answer: dict[str, Any] = await response.json()
    return answer


async def test_from_the_failure_to_the_replay_and_back(
    worker: WorkerProcess, project: TestProject, database: Database, broker: str
) -> None:
    async with aiohttp.ClientSession(headers=project.headers) as session:
        bad = {"eventType": "page_view", "payload": {}}
        ids = sorted([(await ask(session, worker, "POST", "/events", bad))["id"] for _ in range(3)])

        async def letters() -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = (await ask(session, worker, "GET", "/dead-letters"))["items"]
            return items

        async def all_open(replays: int = 0) -> bool:
            return [(one["status"], one["replays"]) for one in await letters()] == [("open", replays)] * 3

        await eventually(all_open, deadline=20, what="three letters")
        found = await letters()
        assert sorted(letter["id"] for letter in found) == ids
        assert {letter["origin"]["topic"] for letter in found} == {"events.tracking"}
        assert {letter["error"]["field"] for letter in found} == {"url"}

        counted = await ask(session, worker, "POST", "/dead-letters/replay", {"filter": {}, "dryRun": True})
        assert counted == {"count": 3}
        replayed = await ask(session, worker, "POST", "/dead-letters/replay", {"filter": {"handler": "tracking"}})
        assert replayed == {"replayed": 3, "nextCursor": None}
        await eventually(lambda: all_open(1), deadline=20, what="the same letters, replayed")
        assert {len(letter["history"]) for letter in await letters()} == {1}

        # Somebody mends what one of them lacked; it is resolved, and counts once.
        async with database.across_projects() as connection:
            await connection.execute("""UPDATE events SET payload = '{"url": "/a"}' WHERE id = $1""", ids[0])
        await ask(session, worker, "POST", f"/events/{ids[0]}/retry")

        async def resolved() -> bool:
            return bool((await ask(session, worker, "GET", f"/dead-letters/{ids[0]}"))["status"] == "resolved")

        await eventually(resolved, deadline=20, what="the mended event's letter is resolved")
        hours = await fetch(database, "SELECT dimensions, count FROM current_rollups WHERE metric = 'events_per_hour'")
        assert {row["dimensions"][1]: row["count"] for row in hours} == {"failed": 2, "processed": 1}


async def test_a_message_that_nobody_can_read_is_kept_for_operators(
    worker: WorkerProcess, project: TestProject, database: Database, broker: str
) -> None:
    garbage = [b"\xff\x00 nonsense", b"{}", b""]
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    for topic in ("raw-events", "events.default", "events.settled"):
        for value in garbage:
            await producer.send_and_wait(topic, value, key=b"k")
    await producer.stop()
    unreadable = "SELECT * FROM dead_letters WHERE project_id IS NULL"

    async def all_there() -> bool:
        return len(await fetch(database, unreadable)) == 9

    await eventually(all_there, deadline=20, what="nine unreadable messages")
    rows = await fetch(database, unreadable)
    assert {(row["topic"], row["raw"]) for row in rows} == {
        (topic, value) for topic in ("raw-events", "events.default", "events.settled") for value in garbage
    }
    assert {row["code"] for row in rows} == {"malformed"}
    assert all(row["message"] and row["offset"] is not None for row in rows)
    async with aiohttp.ClientSession(headers=project.headers) as session:
        assert (await ask(session, worker, "GET", "/dead-letters"))["items"] == []


async def test_events_that_nobody_can_read_cost_none_of_those_beside_them(
    worker: WorkerProcess, project: TestProject, database: Database, broker: str
) -> None:
    without_type, without_id = b'{"id": 7}', b'{"event_type":"page_view"}'
    ids = await store(database, project.id, "page_view", "click", payload=b'{"url": "/", "element": "a"}')
    stored = await fetch(database, "SELECT * FROM events ORDER BY id")
    first, second = (as_bytes(record_of_row(row)) for row in stored)
    (batch,) = await fetch(database, "SELECT * FROM event_batches")
    events = [msgspec.Raw(without_type), first, msgspec.Raw(without_id), second]
    record = UnreadBatch(batch["id"], batch["created_at"], batch["created_at"], events)
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    await producer.send_and_wait("raw-events", msgspec.json.encode(record), key=b"k")
    await producer.stop()

    async def done() -> bool:
        letters = await fetch(database, "SELECT * FROM dead_letters")
        settled = await fetch(database, "SELECT id FROM events WHERE status = 'processed'")
        return len(letters) == 2 and {row["id"] for row in settled} == set(ids)

    await eventually(done, deadline=20, what="two events processed, two letters")
    letters = await fetch(database, "SELECT * FROM dead_letters")
    assert {(row["topic"], row["code"], row["raw"]) for row in letters} == {
        ("raw-events", "malformed", without_type),
        ("events.tracking", "malformed", without_id),
    }
    assert all(row["project_id"] is None and row["message"] for row in letters)
