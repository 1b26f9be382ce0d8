"""A PostgreSQL that may lose what it acknowledged is refused in production; what else may lose something is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boost_streams.app import create_app
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.process import free_port
from boost_streams.settings import load_settings
from boost_streams.topics import topic_specs, weaknesses
from db.pool import Database
from db.server import server_facts
from tests.support.databases import migrated_template, url_of_database
from tests.support.servers import running_postgres
from tests.support.waiting import eventually
from tests.support.workers import ROOT

SAFE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
#: A production worker on servers of this machine, which production would refuse for their addresses.
PRODUCTION = """
import boost_streams.settings
boost_streams.settings.is_this_machine = lambda host: False
from faust.cli.faust import cli
cli.main(args=["-A", "boost_streams.worker", "worker", "-l", "info"], prog_name="boost")
"""


@pytest.fixture(scope="module")
def safe_postgres() -> Iterator[EmbeddedPostgres]:
    with running_postgres(SAFE) as server:
        yield server


def start_in_production(database_url: str, log: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "NODE_ENV": "production",
        "DATABASE_URL": database_url,
        "KAFKA_BROKER": "127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "KAFKA_REPLICATION_FACTOR": "1",
        "ALLOW_REPLICATION_1": "true",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "BOOST_DATA_DIR": tempfile.mkdtemp(prefix="boost-worker-"),
        "PYTHONPATH": str(ROOT),
    }
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, "-c", PRODUCTION], env=environment, cwd=ROOT, stdout=out, stderr=out)


@pytest.mark.parametrize("off", sorted(SAFE))
def test_in_production_a_worker_does_not_start(
    off: str, safe_postgres: EmbeddedPostgres, tmp_path: Path, postgres_url: str
) -> None:
    """Set for the database where that can be done, else on a server that has it off."""
    import psycopg

    log = tmp_path / "log"
    if off == "synchronous_commit":
        with migrated_template(safe_postgres.url()) as name:
            with psycopg.connect(safe_postgres.url(), autocommit=True) as connection:
                connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # type: ignore[arg-type]
            started = start_in_production(url_of_database(safe_postgres.url(), name), log, free_port())
            assert started.wait(40) == 2
    else:
        with running_postgres({**SAFE, off: "off"}) as server, migrated_template(server.url()) as name:
            started = start_in_production(url_of_database(server.url(), name), log, free_port())
            assert started.wait(40) == 2
    said = log.read_text()
    assert f"{off} off" in said
    assert "set to on in postgresql.conf" in said
    assert "Traceback" not in said


@pytest.fixture
def safe_database_url(safe_postgres: EmbeddedPostgres) -> Iterator[str]:
    with migrated_template(safe_postgres.url()) as name:
        yield url_of_database(safe_postgres.url(), name)


async def test_in_production_a_safe_server_is_worked_with(safe_database_url: str, tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    started = start_in_production(safe_database_url, log, port)
    try:

        async def listens() -> bool:
            assert started.poll() is None, log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, deadline=40)
        assert "may lose" not in log.read_text()
    finally:
        started.kill()
        started.wait()


async def test_what_is_off_is_named(database: Database) -> None:
    async with database.across_projects() as connection:
        await connection.execute("SET synchronous_commit = remote_write")
        facts = await server_facts(connection)
        assert facts.synchronous_commit
        await connection.execute("SET synchronous_commit = off")
        facts = await server_facts(connection)
        assert facts.durability_problem is not None
        assert "synchronous_commit off" in facts.durability_problem
        await connection.execute("RESET synchronous_commit")


def test_nothing_in_the_environment_changes_what_a_send_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust reads variables of its own for all that it can be set to."""
    for name, value in (
        ("PRODUCER_ACKS", "0"),
        ("PROCESSING_GUARANTEE", "exactly_once"),
        ("STREAM_BUFFER_MAXSIZE", "1"),
    ):
        monkeypatch.setenv(name, value)
    conf = create_app(load_settings({"NODE_ENV": "test"}), {}).conf
    assert conf.producer_acks == -1
    assert conf.processing_guarantee.value == "at_least_once"
    assert conf.stream_buffer_maxsize == 1024


def test_topics_that_may_lose_messages_are_told() -> None:
    production = load_settings(
        {
            "NODE_ENV": "production",
            "DATABASE_URL": "postgresql://boost@db.internal/boost",
            "KAFKA_BROKER": "kafka.internal:9092",
            "REDIS_URL": "redis://redis.internal",
        }
    )
    spec = topic_specs(production)[0]
    assert weaknesses(spec, {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}) == []
    weak = weaknesses(spec, {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"})
    text = " ".join(problem.message for problem in weak)
    assert "min.insync.replicas=2" in text
    assert "unclean.leader.election.enable=false" in text
    alone = topic_specs(load_settings({"NODE_ENV": "test"}))[0]
    assert weaknesses(alone, {"min.insync.replicas": "1"}) == []
