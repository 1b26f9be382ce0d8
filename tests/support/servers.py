"""The servers of a test session: those named in the environment, or our own in a folder that is removed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from boost_streams.embedded.kafka import LocalKafka
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.redis import EmbeddedRedis

#: Nothing of a test outlives it: no flushing, small and quick.
_THROWAWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "512MB",
    "autovacuum_naptime": "300s",
}


@contextlib.contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """Lend a folder that the user a server runs as can enter, unlike pytest's own when root runs it."""
    folder = Path(tempfile.mkdtemp(prefix=f"boost-test-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_postgres(settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL that is fast and forgets everything, unless settings say otherwise."""
    with server_folder("postgres") as folder:
        server = EmbeddedPostgres(folder, extra_settings={**_THROWAWAY, **settings})
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_redis() -> Iterator[EmbeddedRedis]:
    """Run a Redis."""
    with server_folder("redis") as folder:
        server = EmbeddedRedis(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_kafka() -> Iterator[LocalKafka]:
    """Run a real Apache Kafka."""
    with server_folder("kafka") as folder:
        server = LocalKafka(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
