"""Boost as it is measured: a database, topics and workers of its own, so that rows do not share what they fill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from bench.database import ask
from bench.errors import BenchError
from bench.site import Site
from boost_streams.embedded.process import free_port
from boost_streams.embedded.worker import WorkerServer
from boost_streams.settings import load_settings
from boost_streams.topics import ensure_topics

_READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_METRIC = re.compile(r"^(?P<name>[a-z_]+)(?:\{[^}]*\})? (?P<value>[0-9.e+-]+)$", re.MULTILINE)


@dataclass
class Deployment:
    """A database (`url`), topics (`prefix`), and workers, which may be started and stopped on their own."""

    site: Site
    name: str
    url: str
    roles: str
    workers: list[WorkerServer] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """What its topics begin with."""
        return f"{self.name}."

    @property
    def address(self) -> str:
        """Where its first worker answers."""
        return self.workers[0].url

    @property
    def pids(self) -> list[int]:
        """The process ids of its workers."""
        return [worker.pid for worker in self.workers]

    def environment(self) -> dict[str, str]:
        """Return the variables that configure its workers; none of the caller's own settings reach them."""
        return worker_environment(self.site, self.prefix) | {"DATABASE_URL": self.url, "BOOST_ROLES": self.roles}

    async def make_topics(self) -> None:
        """Create its topics, as its first worker would."""
        await ensure_topics(load_settings(self.environment()))

    def start_workers(self, count: int) -> None:
        """Start workers and return once each is ready."""
        first = len(self.workers)
        logs = self.site.folder / "logs"
        for index in range(first, first + count):
            folder = self.site.folder / f"worker-{self.name}-{index}"
            worker = WorkerServer(index, free_port(), folder, logs / self.name)
            worker.env = self.environment()
            worker.start()
            self.workers.append(worker)
        with ThreadPoolExecutor(max(1, count)) as pool:
            list(pool.map(lambda worker: worker.wait_ready(_READY_SECONDS), self.workers[first:]))

    def stop_workers(self) -> None:
        """Stop every worker."""
        if self.workers:
            with ThreadPoolExecutor(len(self.workers)) as pool:
                list(pool.map(lambda worker: worker.stop(_STOP_SECONDS), self.workers))
        self.workers.clear()

    def metric(self, name: str) -> float:
        """Return the sum of a metric over labels and workers."""
        total = 0.0
        for worker in self.workers:
            with urllib.request.urlopen(f"{worker.url}/metrics", timeout=10) as response:
                text = response.read().decode()
            total += sum(float(found["value"]) for found in _METRIC.finditer(text) if found["name"] == name)
        return total

    def accepted(self) -> int:
        """Return how many events its workers have committed since they started."""
        return int(self.metric("boost_events_accepted_total"))

    def wait_until_settled(self, deadline: float = 120.0) -> float:
        """Wait until nothing is unsettled; return how long that took (seconds).

        Raises:
            BenchError: It took longer than `deadline` seconds.
        """
        started = time.monotonic()
        with ask(self.url) as question:
            while (left := question.unsettled()) > 0:
                if time.monotonic() - started > deadline:
                    raise BenchError(f"{left} events of {self.name} were not settled within {deadline:g} s")
                time.sleep(_LOOK_SECONDS)
        return time.monotonic() - started

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of the workers' logs."""
        paths = sorted((self.site.folder / "logs" / self.name).glob("*.log"))
        ends = {path.name: path.read_text(errors="replace").splitlines()[-lines:] for path in paths}
        return "\n".join(f"-- {name}\n" + "\n".join(end) for name, end in ends.items())


def worker_environment(site: Site, prefix: str) -> dict[str, str]:
    """Return the environment of a worker of this site, without anything that the caller's own environment says."""
    ours = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in ours if name in os.environ} | {
        "NODE_ENV": "development",
        "HOST": "127.0.0.1",
        "KAFKA_BROKER": site.kafka.bootstrap,
        "REDIS_URL": site.redis.url,
        "KAFKA_TOPIC_PREFIX": prefix,
        "LOG_FORMAT": "json",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }


@contextlib.contextmanager
def deployed(site: Site, name: str, roles: str, *, workers: int = 1) -> Iterator[Deployment]:
    """Lend a deployment with `workers` workers that are ready; afterwards all of it goes, its topics too."""
    with site.database(f"bench_{name}") as url:
        deployment = Deployment(site, name, url, roles)
        try:
            deployment.start_workers(workers)
            yield deployment
        except Exception as error:
            error.add_note(deployment.log_tail())
            raise
        finally:
            deployment.stop_workers()
            asyncio.run(_delete_topics(site, deployment.prefix))
            for folder in site.folder.glob(f"worker-{name}-*"):
                shutil.rmtree(folder, ignore_errors=True)


async def _delete_topics(site: Site, prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.kafka.bootstrap)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(prefix)]
        if names:
            await admin.delete_topics(names)
    finally:
        await admin.close()
