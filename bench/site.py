"""The servers of a run: PostgreSQL as in production, Redis, Apache Kafka, in a folder that goes away with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from bench.bodies import write_bodies
from bench.database import ask, clone_database, drop_database
from bench.errors import BenchError
from bench.page_cache import let_go_of_page_cache
from boost_streams.api_key import make_key
from boost_streams.embedded.kafka import LocalKafka, kafka_available
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.redis import EmbeddedRedis
from db.api_keys import create_key
from db.migrate import migrate
from db.partitions import ensure_partitions
from db.pool import Database
from db.projects import create_project_across_projects

#: How many projects the load comes from, in turn.
PROJECTS = 4
_TEMPLATE = "boost_template"
_MIB = 1024 * 1024
#: Files of the write-ahead log that are kept to be written over, and the size of one.
_LOG_SEGMENTS = 320
_SEGMENT_MIB = 16
_STOP_SECONDS = 10.0


def postgres_settings(memory_bytes: int) -> dict[str, str]:
    """Return the settings of a PostgreSQL that keeps what it acknowledged: nothing is switched off.

    Args:
        memory_bytes: The machine's memory, of which a quarter (at most 2 GiB) becomes `shared_buffers`.
    """
    shared = max(128, min(2048, memory_bytes // _MIB // 4))
    return {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "autovacuum": "on",
        "autovacuum_naptime": "10s",
        "shared_buffers": f"{shared}MB",
        "effective_cache_size": f"{shared * 2}MB",
        "max_wal_size": "8GB",
        "min_wal_size": f"{_LOG_SEGMENTS * _SEGMENT_MIB}MB",
        "checkpoint_timeout": "15min",
    }


@dataclass(frozen=True, slots=True)
class Project:
    """A project that every database of the run has, and its key."""

    id: UUID
    key: str


class Site:
    """The servers, the events that are sent, and a migrated database from which others are cloned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bodies = write_bodies(folder / "events.jsonl")
        self.memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.postgres = EmbeddedPostgres(folder / "postgres", extra_settings=postgres_settings(self.memory_bytes))
        self.redis = EmbeddedRedis(folder / "redis")
        self.kafka = LocalKafka(folder / "kafka")
        self.projects: list[Project] = []

    @property
    def keys(self) -> list[str]:
        """The keys of the projects."""
        return [project.key for project in self.projects]

    @property
    def project_list(self) -> str:
        """The ids of the projects, as the programs of `bench.ceilings` take them."""
        return ",".join(str(project.id) for project in self.projects)

    @property
    def topics_folder(self) -> Path:
        """Where the broker keeps a folder per partition."""
        return self.kafka.data_dir / "data"

    def start(self) -> None:
        """Start all three at once, and make the database from which the others are cloned."""
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda server: server.start(), (self.postgres, self.redis, self.kafka)))
        self.postgres.ensure_database(_TEMPLATE)
        asyncio.run(self._fill(self.postgres.url(_TEMPLATE)))

    def make_log_segments(self) -> None:
        """Make the files of the write-ahead log that a server which has run for a while writes over.

        A fresh server makes each when it first needs it: a commit then writes 16 MiB of zeros and waits until they
        are on disk.
        """
        with ask(self.postgres.url()) as question:
            question.make_log_segments(_LOG_SEGMENTS)
        self.let_go_of_page_cache()

    def let_go_of_page_cache(self) -> None:
        """Have what the servers wrote on disk only, so that the next measurement finds memory that is at hand."""
        let_go_of_page_cache(self.folder)

    def stop(self) -> None:
        """Stop all three."""
        for server in (self.kafka, self.redis, self.postgres):
            with contextlib.suppress(Exception):
                server.stop(_STOP_SECONDS)

    @contextlib.contextmanager
    def kafka_away(self) -> Iterator[None]:
        """Stop the broker meanwhile; it comes back where it was, with its topics, after an error too.

        Raises:
            EmbeddedServerError: It does not come back.
        """
        try:
            self.kafka.stop(_STOP_SECONDS)
            yield
        finally:
            self.kafka.start()

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Lend the URL of a fresh, migrated database with the projects, and drop it afterwards."""
        clone_database(self.postgres.url(), name, _TEMPLATE)
        try:
            yield self.postgres.url(name)
        finally:
            drop_database(self.postgres.url(), name)

    async def _fill(self, url: str) -> None:
        await migrate(url)
        database = Database(url, pipeline_connections=1, tenant_connections=1)
        await database.open()
        try:
            await ensure_partitions(database)
            for number in range(PROJECTS):
                self.projects.append(await make_project(database, f"bench-{number}"))
        finally:
            await database.close()


async def make_project(database: Database, name: str) -> Project:
    """Make a project and a key of it."""
    async with database.across_projects() as connection:
        project = await create_project_across_projects(connection, name)
    key = make_key("test")
    async with database.for_project(project.id) as connection:
        await create_key(connection, project.id, key, "bench")
    return Project(project.id, key)


@contextlib.contextmanager
def running_site(say: Callable[[str], None]) -> Iterator[Site]:
    """Run the servers in a folder of their own below `BENCH_DIR` (or where temporary files go), then remove it.

    Raises:
        BenchError: What a real Kafka needs is missing; says what.
    """
    if problem := kafka_available():
        raise BenchError(problem)
    folder = Path(tempfile.mkdtemp(prefix="boost-bench-", dir=os.environ.get("BENCH_DIR")))
    folder.chmod(0o755)
    site = Site(folder)
    try:
        say("starting PostgreSQL, Redis and Kafka")
        site.start()
        yield site
    finally:
        site.stop()
        shutil.rmtree(folder, ignore_errors=True)
