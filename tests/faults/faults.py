"""What a fault is: something with a beginning and an end, done to a rig. Every class here is one."""

from __future__ import annotations

import asyncio
import random
import signal
from dataclasses import dataclass
from typing import Protocol

from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.settings import Settings
from tests.faults.rig import CannotBeHad, Rig
from tests.support.workers import WorkerProcess


class Fault(Protocol):
    """Begins with `start`, lasts for as long as the schedule says, ends with `stop`."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Break something."""

    async def stop(self, rig: Rig) -> None:
        """Mend it, as an operator or a supervisor would; do not wait until all is well again."""


def _any_running(rig: Rig, chance: random.Random) -> WorkerProcess:
    running = [w for w in rig.workers if w.process is not None and w.process.poll() is None]
    return chance.choice(running or rig.workers)


@dataclass(slots=True)
class KillWorker:
    """kill -9 of a random worker, which is started again."""

    victim: WorkerProcess | None = None

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Kill one that runs, whether or not it is ready."""
        self.victim = _any_running(rig, chance)
        rig.held.append(self.victim)
        self.victim.kill()

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        assert self.victim is not None
        self.victim.start()
        rig.held.remove(self.victim)


@dataclass(slots=True)
class TerminateWorker:
    """SIGTERM of a random worker that is ready, which is started again once it has ended."""

    #: A worker must have ended by itself after this time (seconds).
    within: float = 10.0
    victim: WorkerProcess | None = None

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Ask it to end, and wait."""
        self.victim = _any_running(rig, chance)
        await rig.ready(self.victim)
        rig.held.append(self.victim)
        await self.victim.terminate(self.within)

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        assert self.victim is not None
        self.victim.start()
        rig.held.remove(self.victim)


@dataclass(slots=True)
class RollingRestart:
    """All workers, one after the other, each when the one before is ready again."""

    within: float = 10.0

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Restart each."""
        for worker in chance.sample(rig.workers, len(rig.workers)):
            await rig.ready(worker)
            rig.held.append(worker)
            await worker.terminate(self.within)
            worker.start()
            rig.held.remove(worker)
            await rig.ready(worker)

    async def stop(self, rig: Rig) -> None:
        """Do nothing: all of them run."""


@dataclass(slots=True)
class PauseWorker:
    """SIGSTOP of a random worker: past its session time-out others take over, then it goes on, a zombie."""

    victim: WorkerProcess | None = None

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Stop one that is ready."""
        self.victim = _any_running(rig, chance)
        await rig.ready(self.victim)
        assert self.victim.process is not None
        self.victim.process.send_signal(signal.SIGSTOP)

    async def stop(self, rig: Rig) -> None:
        """Let it go on; it may find out that it is late and leave, and is then started again."""
        assert self.victim is not None
        assert self.victim.process is not None
        if self.victim.process.poll() is None:
            self.victim.process.send_signal(signal.SIGCONT)


@dataclass(slots=True)
class FatalEvent:
    """An event whose handler blocks, ends the process or eats its memory."""

    event_type: str

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Send it."""
        if "boost_handler_modules" not in Settings.model_fields:
            raise CannotBeHad("this release does not keep handlers apart")
        assert rig.client is not None
        await rig.client.send({"eventType": self.event_type, "payload": {}})

    async def stop(self, rig: Rig) -> None:
        """Do nothing: it is on its way."""


@dataclass(slots=True)
class PostgresKilled:
    """kill -9 of PostgreSQL, which recovers from its log."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Kill all of it."""
        await asyncio.to_thread(rig.postgres.kill)

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        await asyncio.to_thread(rig.postgres.start)


@dataclass(slots=True)
class PostgresFailsOver:
    """What a fail-over looks like: connections reset, and the server read-only for a while."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Make it read-only and end every session of the workers."""
        await _as_operator(
            rig.postgres,
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'boost%'",
        )
        rig.proxies["postgres"].cut()

    async def stop(self, rig: Rig) -> None:
        """Promote it."""
        await _as_operator(rig.postgres, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


async def _as_operator(postgres: EmbeddedPostgres, *statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(postgres.url("boost"))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@dataclass(slots=True)
class KafkaStopped:
    """Kafka stopped in good order, and started again."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Stop it."""
        await asyncio.to_thread(rig.kafka.stop)

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        await asyncio.to_thread(rig.kafka.start)


@dataclass(slots=True)
class KafkaKilled:
    """kill -9 of Kafka."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Kill it."""
        await asyncio.to_thread(rig.kafka.kill)

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        await asyncio.to_thread(rig.kafka.start)


@dataclass(slots=True)
class KafkaEmptied:
    """Kafka comes back without anything that it had: topics, messages, offsets. Nobody makes the topics but workers."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Kill it and remove its data."""
        await asyncio.to_thread(rig.kafka.wipe)

    async def stop(self, rig: Rig) -> None:
        """Start it, empty."""
        await asyncio.to_thread(rig.kafka.start)


@dataclass(slots=True)
class RedisStopped:
    """Redis stopped, and started again, empty."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Stop it."""
        await asyncio.to_thread(rig.redis.kill)

    async def stop(self, rig: Rig) -> None:
        """Start it."""
        await asyncio.to_thread(rig.redis.start)


@dataclass(slots=True)
class RedisFlushed:
    """Redis forgets everything."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """FLUSHALL."""
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.redis.port)
        writer.write(b"FLUSHALL\r\n")
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert answer == b"+OK\r\n", answer

    async def stop(self, rig: Rig) -> None:
        """Do nothing."""


@dataclass(slots=True)
class RedisSlow:
    """Redis answers half a second late."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Hold back every answer."""
        rig.proxies["redis"].delay = 0.25

    async def stop(self, rig: Rig) -> None:
        """Let answers through."""
        rig.proxies["redis"].delay = 0.0


@dataclass(slots=True)
class DiskFull:
    """The filesystem under PostgreSQL's data runs full: a file takes what is left, and goes again."""

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Write until nothing more fits."""
        assert rig.small_disk is not None
        await asyncio.to_thread(_fill, str(rig.small_disk / "filler"))

    async def stop(self, rig: Rig) -> None:
        """Make room; PostgreSQL is started again where it gave up."""
        assert rig.small_disk is not None
        (rig.small_disk / "filler").unlink()
        if not rig.postgres.alive():
            await asyncio.to_thread(rig.postgres.start)


def _fill(path: str) -> None:
    with open(path, "wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    filler.write(b"\0" * size)
            except OSError:
                continue
