"""Fixtures that every test may use. Real servers; each test has a database of its own.

`TEST_DATABASE_URL` and `TEST_REDIS_URL` name servers to use instead of our own; with `BOOST_TEST_ALL=1` a
test that needs a real Kafka fails, instead of being skipped, where there is no Java or Maven.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# What is imported here, every test run pays for: the rest is imported where it is needed.
if TYPE_CHECKING:
    from boost_streams.embedded.kafka import LocalKafka
    from boost_streams.settings import Settings
    from db.pool import Database
    from tests.support.projects import TestProject

#: How much of a worker's log is shown with a test that failed (characters).
_LOG_TAIL = 8000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real Kafka where none can be started, and say why."""
    needing = [item for item in items if item.get_closest_marker("kafka")]
    if not needing or os.environ.get("BOOST_TEST_ALL") == "1":
        return
    from boost_streams.embedded.kafka import kafka_available

    if reason := kafka_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last lines of every worker's log with a test that failed, and remove the logs at its end."""
    report = yield
    logs: list[Path] = getattr(sys.modules.get("tests.support.workers"), "LOGS", [])
    if report.failed:
        for log in logs:
            report.sections.append((f"worker log {log.name}", log.read_text(errors="replace")[-_LOG_TAIL:]))
    if report.when == "teardown":
        while logs:
            logs.pop().unlink(missing_ok=True)
    return report


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL server: `TEST_DATABASE_URL`, or one of our own for this session."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    from tests.support.servers import running_postgres

    with running_postgres() as server:
        yield server.url()


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> Iterator[str]:
    """The name of a database with the newest schema and partitions around today, made once."""
    from tests.support.databases import migrated_template

    with migrated_template(postgres_url) as name:
        yield name


@pytest.fixture
def database_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """The URL of a migrated database that is this test's alone."""
    from tests.support.databases import fresh_database

    with fresh_database(postgres_url, template=template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a database without any schema, this test's alone."""
    from tests.support.databases import fresh_database

    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The pools of this test's database, open."""
    from db.pool import Database

    opened = Database(database_url, pipeline_connections=6, tenant_connections=4)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis: `TEST_REDIS_URL`, or one of our own for this session. A test uses its own keys."""
    if url := os.environ.get("TEST_REDIS_URL"):
        yield url
        return
    from tests.support.servers import running_redis

    with running_redis() as server:
        yield server.url


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings with this test's database, no Redis, and otherwise the defaults."""
    from boost_streams.settings import load_settings

    return load_settings({"NODE_ENV": "test", "DATABASE_URL": database_url, "REDIS_URL": ""})


@pytest.fixture
async def project(database: Database) -> TestProject:
    """A project with a key."""
    from tests.support.projects import make_project

    return await make_project(database, "shop")


@pytest.fixture
async def other_project(database: Database) -> TestProject:
    """Another organization's project with a key."""
    from tests.support.projects import make_project

    return await make_project(database, "forum", organization="others")


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    """Have Python look for no cycles of references meanwhile: what lies in one is not freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Take back what a command, run within this process, does to logging: its stderr is gone afterwards."""
    import logging

    import structlog

    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """A real Apache Kafka for this session; its tests are marked `kafka`."""
    from tests.support.servers import running_kafka

    with running_kafka() as server:
        yield server
