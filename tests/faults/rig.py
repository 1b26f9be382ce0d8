"""What a campaign runs on: PostgreSQL, Kafka, Redis and workers, each pair with a proxy between."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from boost_streams.embedded.kafka import LocalKafka
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.process import free_port
from boost_streams.embedded.redis import EmbeddedRedis
from boost_streams.settings import Settings, load_settings
from db.migrate import migrate
from db.partitions import ensure_partitions
from db.pool import Database
from tests.faults.traffic import TrafficClient
from tests.support.databases import url_of_database
from tests.support.projects import TestProject, make_project
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.servers import server_folder
from tests.support.waiting import eventually
from tests.support.workers import WorkerProcess

#: Like a server in production in all that a crash can show; only small.
HANDLER_MODULES = tuple(f"tests.faults.{name}" for name in ("poison", "poison_slow", "poison_fatal"))
_POSTGRES = {"max_wal_size": "256MB", "wal_keep_size": "0"}
_PROJECTS = 3
_SUPERVISOR_SECONDS = 0.5
_SMALL_MEGABYTES = 400


class CannotBeHad(RuntimeError):
    """This machine cannot do what a campaign needs; the message says what."""


@dataclass(slots=True)
class Rig:
    """The servers and workers of one campaign. Workers and clients go through `proxies`; the suite itself does not."""

    postgres: EmbeddedPostgres
    kafka: LocalKafka
    redis: EmbeddedRedis
    proxies: dict[str, FaultProxy]
    environment: dict[str, str]
    workers: list[WorkerProcess]
    database: Database
    projects: list[TestProject] = field(default_factory=list)
    #: The folder that can run full, in a campaign with a small disk.
    small_disk: Path | None = None
    #: The campaign's client, once there is traffic.
    client: TrafficClient | None = None
    #: Workers that a fault has ended and will start again: the supervisor leaves them alone.
    held: list[WorkerProcess] = field(default_factory=list)
    #: Exit codes of workers that ended by themselves.
    left: list[int] = field(default_factory=list)

    async def supervise(self) -> None:
        """Start workers that end by themselves, as whatever runs them in production does; until cancelled."""
        while True:
            for worker in self.workers:
                if worker in self.held or worker.process is None:
                    continue
                if (code := worker.process.poll()) is not None:
                    self.left.append(code)
                    worker.start()
            await asyncio.sleep(_SUPERVISOR_SECONDS)

    @property
    def settings(self) -> Settings:
        """The settings of its workers."""
        return load_settings(self.environment)

    def url_of(self, number: int, *, direct: bool) -> str:
        """Where clients reach a worker."""
        return self.workers[number].url if direct else f"http://127.0.0.1:{self.proxies[f'worker {number}'].port}"

    def proxies_of(self, pair: str) -> list[FaultProxy]:
        """Return the proxies between workers and a server, or, for `clients`, between clients and workers."""
        if pair != "clients":
            return [self.proxies[pair]]
        return [self.proxies[f"worker {number}"] for number in range(len(self.workers))]

    async def ensure_running(self) -> None:
        """Start again whatever does not run, and wait until all of it is ready."""
        for server in (self.postgres, self.kafka, self.redis):
            if not server.alive():
                await asyncio.to_thread(server.start)
        self.held.clear()
        for worker in self.workers:
            if worker.process is None:
                worker.start()
            elif worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
        for worker in self.workers:
            await self.ready(worker)

    async def ready(self, worker: WorkerProcess, deadline: float = 60) -> None:
        """Wait until a worker is ready, whether or not it ends and is started again meanwhile."""

        async def is_ready() -> bool:
            with contextlib.suppress(RuntimeError):
                await worker.ready(deadline)
                return True
            return False

        await eventually(is_ready, deadline=deadline, what=f"worker {worker.url} ready")


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Lend a folder on a filesystem of its own of a few hundred megabytes, in memory.

    Raises:
        CannotBeHad: Nothing may be mounted here.
    """
    with server_folder("small") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_MEGABYTES}m,mode=755", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            raise CannotBeHad("a small filesystem cannot be mounted: it takes root, or CAP_SYS_ADMIN")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)


async def _migrated(postgres: EmbeddedPostgres) -> str:
    await asyncio.to_thread(postgres.ensure_database, "boost")
    url = url_of_database(postgres.url(), "boost")
    await migrate(url)
    return url


@contextlib.asynccontextmanager
async def running_rig(
    workers: int, chance: random.Random, *, on_small_disk: bool = False, extra: dict[str, str] | None = None
) -> AsyncIterator[Rig]:
    """Run servers and workers, proxies between them; everything is gone afterwards.

    Raises:
        CannotBeHad: This machine cannot give what was asked for.
    """
    async with contextlib.AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk()) if on_small_disk else None
        folders = [disk or stack.enter_context(server_folder("postgres"))]
        folders += [stack.enter_context(server_folder(name)) for name in ("kafka", "redis")]
        kafka_port, kafka_proxy = free_port(), free_port()
        advertised = {"advertised.listeners": f"CLIENT://127.0.0.1:{kafka_proxy}"}
        postgres = EmbeddedPostgres(folders[0], extra_settings=_POSTGRES)
        kafka = LocalKafka(folders[1], port=kafka_port, extra_properties=advertised)
        redis = EmbeddedRedis(folders[2])
        proxies = {
            "kafka": await stack.enter_async_context(
                fault_proxy("127.0.0.1", kafka_port, listen=kafka_proxy, chance=chance)
            )
        }
        for server in (postgres, kafka, redis):
            stack.callback(server.kill)
            await asyncio.to_thread(server.start)
        url = await _migrated(postgres)
        for name, port in (("postgres", postgres.port), ("redis", redis.port)):
            proxies[name] = await stack.enter_async_context(fault_proxy("127.0.0.1", port, chance=chance))
        database = Database(url, pipeline_connections=3, tenant_connections=1)
        await database.open()
        stack.push_async_callback(database.close)
        await ensure_partitions(database)
        environment = {
            "NODE_ENV": "test",
            "DATABASE_URL": url.replace(f":{postgres.port}/", f":{proxies['postgres'].port}/"),
            "KAFKA_BROKER": f"127.0.0.1:{kafka_proxy}",
            "KAFKA_TOPIC_PREFIX": f"t{uuid4().hex[:8]}-",
            "REDIS_URL": f"redis://127.0.0.1:{proxies['redis'].port}/0",
            "LOG_FORMAT": "json",
            "BOOST_HANDLER_MODULES": ",".join(HANDLER_MODULES),
            "HANDLER_FAILING_LEAST": "1000000",  # poison is meant to fail, and must not pause its handler
            **(extra or {}),
        }
        processes = [WorkerProcess(environment, module="tests.faults.poisoned_worker") for _ in range(workers)]
        for number, worker in enumerate(processes):
            proxy = fault_proxy("127.0.0.1", worker.port, chance=chance)
            proxies[f"worker {number}"] = await stack.enter_async_context(proxy)
            stack.callback(worker.stop)
        rig = Rig(postgres, kafka, redis, proxies, environment, processes, database, small_disk=disk)
        rig.projects = [await make_project(database, f"shop-{number}") for number in range(_PROJECTS)]
        await rig.ensure_running()
        supervisor = asyncio.create_task(rig.supervise())
        stack.callback(supervisor.cancel)
        yield rig
