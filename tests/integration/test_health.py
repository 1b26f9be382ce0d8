"""Liveness, readiness with a reason per part, the detailed view, and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from boost_streams.settings import Settings, load_settings
from db.partitions import partition_name
from db.pauses import pause_across_projects
from db.pool import Database
from db.workers import heartbeat_across_projects, record_progress_across_projects
from tests.support.http import QuietProbe, web_client
from tests.support.stored_events import store
from web import health
from web.health import DEADLINE_SECONDS, REMEMBER_SECONDS, Health

ROUTES = {
    ("GET", "/health"): health.detail,
    ("GET", "/health/live"): health.live,
    ("GET", "/health/ready"): health.ready,
    ("GET", "/metrics"): health.metrics,
}
READY_PARTS = ["database", "migrations", "partition", "broker", "assignment", "draining"]
PRODUCTION = {
    "NODE_ENV": "production",
    "DATABASE_URL": "postgresql://boost@db.example/boost",
    "KAFKA_BROKER": "kafka.example:9092",
    "REDIS_URL": "redis://192.0.2.1:6379/0",
}


class CountingDatabase:
    """Counts how often a connection is asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lent = 0

    @contextlib.asynccontextmanager
    async def across_projects(self) -> AsyncIterator[Any]:
        self.lent += 1
        async with self._database.across_projects() as connection:
            yield connection


@pytest.fixture
def probe() -> QuietProbe:
    return QuietProbe()


@pytest.fixture
async def client(settings: Settings, database: Database, probe: QuietProbe) -> AsyncIterator[Any]:
    async with web_client(settings, database, ROUTES, health=Health(settings, database, probe)) as client:
        yield client


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[Any]:
    """A connection that may change the schema."""
    connection = await database.connect(role="boost_owner")
    yield connection
    await connection.close()


async def answer(client: Any, path: str) -> tuple[int, Any]:
    response = await client.get(path)
    assert response.headers["Cache-Control"] == "no-store"
    return response.status, await response.json()


async def test_live_needs_nothing(client: Any, probe: QuietProbe) -> None:
    probe.broker = "away"
    probe.stopping = True
    assert await answer(client, "/health/live") == (200, {"status": "ok", "parts": {}})


async def test_ready_when_every_part_is(client: Any) -> None:
    status, body = await answer(client, "/health/ready")
    assert (status, body) == (200, {"status": "ok", "parts": dict.fromkeys(READY_PARTS, "ok")})


@pytest.mark.parametrize(
    ("attribute", "value", "part", "reason"),
    [
        ("broker", "kafka-1:9092 refuses", "broker", "kafka-1:9092 refuses"),
        ("assignment", "rebalancing", "assignment", "rebalancing"),
        ("stopping", True, "draining", "this worker is stopping"),
    ],
)
async def test_worker_that_cannot_serve_is_not_ready(
    client: Any, probe: QuietProbe, attribute: str, value: Any, part: str, reason: str
) -> None:
    setattr(probe, attribute, value)
    status, body = await answer(client, "/health/ready")
    expected = {**dict.fromkeys(READY_PARTS, "ok"), part: reason}
    assert (status, body) == (503, {"status": "unavailable", "parts": expected})


async def test_schema_that_is_behind_is_not_ready(client: Any, owner: Any) -> None:
    await owner.execute("SET ROLE NONE")
    await owner.execute("UPDATE boost_schema_version SET version_num = '0000'")
    status, body = await answer(client, "/health/ready")
    assert status == 503
    assert "boost migrate" in body["parts"]["migrations"]
    assert body["parts"]["database"] == body["parts"]["partition"] == "ok"


async def test_a_newer_schema_is_no_reason_not_to_be_ready(client: Any, owner: Any) -> None:
    await owner.execute("SET ROLE NONE")
    await owner.execute("UPDATE boost_schema_version SET version_num = '9999'")
    status, body = await answer(client, "/health/ready")
    assert (status, body["parts"]["migrations"]) == (200, "ok")


async def test_without_a_partition_for_the_next_hour_not_ready(client: Any, owner: Any) -> None:
    # In the last hour of a UTC day it is tomorrow's as well.
    today = (await owner.fetchval("SELECT now()")).date()
    for day in (today, today + dt.timedelta(days=1)):
        await owner.execute(f"ALTER TABLE events DETACH PARTITION {partition_name(day)}")
    status, body = await answer(client, "/health/ready")
    assert status == 503
    assert "next hour" in body["parts"]["partition"]


async def test_closed_database_is_not_ready(client: Any, database: Database) -> None:
    await database.close()
    status, body = await answer(client, "/health/ready")
    assert status == 503
    assert all(body["parts"][part] != "ok" for part in ("database", "migrations", "partition"))
    status, body = await answer(client, "/health")
    assert (status, body["backlog"], body["workers"], body["consumers"]) == (503, None, None, None)


async def test_database_that_hangs_is_answered_for_within_the_deadline(client: Any, owner: Any) -> None:
    await owner.execute("SET ROLE NONE")
    async with owner.transaction():
        await owner.execute("LOCK TABLE boost_schema_version, event_batches IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        answers = await asyncio.gather(answer(client, "/health"), *(answer(client, "/health/ready") for _ in range(20)))
        assert time.monotonic() - started < DEADLINE_SECONDS + 1
    for status, body in answers:
        assert (status, body["parts"]["database"]) == (503, f"no answer within {DEADLINE_SECONDS:g} s")
    await asyncio.sleep(REMEMBER_SECONDS)
    assert (await answer(client, "/health/ready"))[0] == 200


async def test_probes_do_not_load_the_database(settings: Settings, database: Database, probe: QuietProbe) -> None:
    clock = [100.0]
    counting: Any = CountingDatabase(database)
    checks = Health(settings, counting, probe, clock=lambda: clock[0])
    await asyncio.gather(*(checks.ready_parts() for _ in range(50)))
    assert counting.lent == 1
    clock[0] += REMEMBER_SECONDS
    await checks.ready_parts()
    assert counting.lent == 2
    # What the worker knows of itself is never remembered.
    probe.stopping = True
    assert (await checks.ready_parts())["draining"] != "ok"
    assert counting.lent == 2


async def test_detail_counts_what_is_under_way(client: Any, database: Database, project: Any) -> None:
    await store(database, project.id, "click", "click")
    await store(database, project.id, "click")
    async with database.across_projects() as connection:
        await connection.execute(
            "UPDATE event_batches SET last_published_at = NULL, created_at = now() - interval '1 day'"
            " WHERE unsettled = 1"
        )
        await heartbeat_across_projects(connection, UUID(int=1), "here", "http://here", ["web"], 0)
        await heartbeat_across_projects(connection, UUID(int=2), "gone", "http://gone", ["web"], 0)
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE host = 'gone'")
        await record_progress_across_projects(connection, UUID(int=1), [("raw-events", 3, None)])
    status, body = await answer(client, "/health")
    assert status == 200
    assert body["backlog"] == {
        "batches": 2,
        "events": 3,
        "unpublishedBatches": 1,
        "unpublishedEvents": 1,
        "stuckBatches": 1,
        "stuckEvents": 1,
        "retries": 0,
    }
    assert body["workers"] == 1
    [consumer] = body["consumers"]
    assert (consumer["topic"], consumer["partition"], consumer["caughtUp"]) == ("raw-events", 3, True)
    assert str(project.id) not in str(body)


async def test_redis_that_is_away_is_only_a_warning(database: Database, probe: QuietProbe) -> None:
    settings = load_settings({"NODE_ENV": "test", "REDIS_URL": "redis://192.0.2.1:6379/0"})
    body = await Health(settings, database, probe).detail()
    assert body["parts"]["redis"].startswith("warning: ")
    assert body["status"] == "ok"


async def test_redis_that_answers_is_ok(database: Database, probe: QuietProbe, redis_url: str) -> None:
    settings = load_settings({"NODE_ENV": "test", "REDIS_URL": redis_url})
    assert (await Health(settings, database, probe).detail())["parts"]["redis"] == "ok"


async def test_server_that_does_not_flush_is_an_error_in_production_only(
    settings: Settings, database: Database, probe: QuietProbe
) -> None:
    async with database.across_projects() as connection:
        flushes = await connection.fetchval("SELECT current_setting('fsync')::boolean")
    here = await Health(settings, database, probe).detail()
    production = await Health(load_settings(PRODUCTION), database, probe).detail()
    assert here["status"] == "ok"
    if flushes:
        assert here["parts"]["fsync"] == production["parts"]["fsync"] == "ok"
        return
    assert here["parts"]["fsync"].startswith("warning: fsync")
    assert production["parts"]["fsync"].startswith("fsync")
    assert production["status"] == "unavailable"


async def test_paused_topic_is_a_warning_and_no_reason_to_send_nothing(client: Any, database: Database) -> None:
    async with database.across_projects() as connection:
        await pause_across_projects(connection, "events.user", "90% of the events of handler user failed")
    status, body = await answer(client, "/health")
    assert (status, body["status"]) == (200, "ok")
    assert body["parts"]["consumption"].startswith("warning: events.user is paused since ")
    assert "90% of the events of handler user failed" in body["parts"]["consumption"]
    assert (await answer(client, "/health/ready"))[0] == 200


async def test_metrics_are_in_prometheus_format(client: Any) -> None:
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert "\n# TYPE boost_events_accepted_total counter\n" in "\n" + await response.text()
