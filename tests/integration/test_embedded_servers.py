"""The servers for one machine: each comes up, survives a crash on its port, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError

from boost_streams.embedded import postgres as postgres_module
from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.embedded.kafka import KafkaSecurity, LocalKafka
from boost_streams.embedded.kafka_jars import cache_folder, java_program, kafka_jars
from boost_streams.embedded.postgres import EmbeddedPostgres
from boost_streams.embedded.process import (
    EmbeddedServerError,
    ManagedProcess,
    command_line,
    end_leftover,
    free_port,
    port_is_free,
    remembered_port,
)
from boost_streams.embedded.redis import EmbeddedRedis
from boost_streams.embedded.server_user import ServerUser


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can enter, unlike pytest's own when root runs the tests."""
    made = Path(tempfile.mkdtemp(prefix="boost-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "postgres", extra_settings={"fsync": "off"})
    server.start()
    yield server
    server.kill()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true in time"
        time.sleep(0.02)


class TestProcess:
    def test_a_child_that_ends_early_is_reported_with_its_log(self, tmp_path: Path) -> None:
        child = ManagedProcess("server", ["sh", "-c", "echo the reason; exit 3"], tmp_path / "log")
        child.start()
        with pytest.raises(EmbeddedServerError, match=r"(?s)server ended with code 3.*the reason"):
            child.wait_ready(lambda: False, 10)

    def test_a_child_that_is_never_ready_is_reported_with_its_log(self, tmp_path: Path) -> None:
        child = ManagedProcess("server", ["sh", "-c", "echo still waiting; sleep 60"], tmp_path / "log")
        child.start()
        wait_until(lambda: "still" in (tmp_path / "log").read_text())
        with pytest.raises(EmbeddedServerError, match=r"(?s)not ready within 0.1 s.*still waiting"):
            child.wait_ready(lambda: False, 0.1)
        child.kill()
        assert not child.alive()

    def test_what_a_child_was_waiting_for_is_reported(self, tmp_path: Path) -> None:
        child = ManagedProcess("server", ["sleep", "60"], tmp_path / "log")
        child.start()
        with pytest.raises(EmbeddedServerError, match=r"not ready within 0.1 s, waiting for the broker;"):
            child.wait_ready(lambda: False, 0.1, lambda: "the broker")
        child.kill()

    def test_a_program_that_is_not_there_is_reported(self, tmp_path: Path) -> None:
        child = ManagedProcess("server", ["/no/such/program"], tmp_path / "log")
        with pytest.raises(EmbeddedServerError, match="server cannot be started"):
            child.start()

    def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(self, tmp_path: Path) -> None:
        script = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
        child = ManagedProcess("stubborn", ["sh", "-c", script], tmp_path / "log")
        child.start()
        wait_until(lambda: "ready" in (tmp_path / "log").read_text())
        started = time.monotonic()
        child.terminate(0.3)
        assert not child.alive()
        assert 0.25 < time.monotonic() - started < 5
        assert child.exit_code == -signal.SIGKILL

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux ends children with their parent")
    def test_a_child_dies_with_a_parent_that_is_killed_but_not_with_the_thread_that_asked(self, tmp_path: Path) -> None:
        script = (
            "import sys, threading, time\n"
            "from pathlib import Path\n"
            "from boost_streams.embedded.process import ManagedProcess\n"
            "child = ManagedProcess('child', ['sleep', '600'], Path(sys.argv[1]))\n"
            "asker = threading.Thread(target=child.start)\n"
            "asker.start(); asker.join()\n"
            "try:\n"
            "    child.wait_ready(lambda: False, 0.5)\n"
            "except RuntimeError: pass\n"
            "print(child.pid if child.alive() else 0, flush=True)\n"
            "time.sleep(600)\n"
        )
        argv = [sys.executable, "-c", script, str(tmp_path / "log")]
        parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert "sleep" in command_line(pid)
        parent.kill()
        parent.wait()
        wait_until(lambda: "sleep" not in command_line(pid))

    def test_a_leftover_is_ended_only_if_it_is_what_it_was(self, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        child = ManagedProcess("leftover", ["sleep", "600"], tmp_path / "log", pid_file=pid_file)
        child.start()
        end_leftover(pid_file, "another program", grace=0.2)
        assert child.alive()
        pid_file.write_text(str(child.pid))
        end_leftover(pid_file, "sleep 600")
        wait_until(lambda: not child.alive())
        assert not pid_file.exists()

    def test_a_port_is_remembered_until_another_program_takes_it(self, tmp_path: Path) -> None:
        port = remembered_port(tmp_path / "port")
        assert remembered_port(tmp_path / "port") == port
        with socket.create_server(("127.0.0.1", port)):
            assert not port_is_free(port)
            assert remembered_port(tmp_path / "port") != port

    def test_a_free_port_is_none_that_an_outgoing_connection_could_take(self) -> None:
        ports = {free_port() for _ in range(50)}
        assert len(ports) > 40
        assert all(1024 < port < 32_768 for port in ports)

    def test_the_servers_user_must_get_through_every_parent(self, folder: Path) -> None:
        user = ServerUser("somebody", uid=54321, gid=54321)
        inner = folder / "closed" / "inner"
        inner.mkdir(parents=True)
        assert user.can_enter(inner)
        (folder / "closed").chmod(0o700)
        assert not user.can_enter(inner)


class TestPostgres:
    async def test_holds_what_was_committed_over_a_crash_and_keeps_its_port(self, folder: Path) -> None:
        server = EmbeddedPostgres(folder / "postgres")
        server.start()
        try:
            server.ensure_database("boost")
            server.ensure_database("boost")
            url = server.url("boost")
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SHOW server_version_num") >= "180000"
            assert await connection.fetchval("SHOW fsync") == "on"
            await connection.execute("CREATE TABLE kept AS SELECT 'über' AS word")
            server.kill()
            assert not server.alive()
            server.start()
            assert server.url("boost") == url
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT word FROM kept") == "über"
            await connection.close()
        finally:
            server.kill()

    def test_takes_over_from_a_server_that_a_killed_run_left(self, postgres: EmbeddedPostgres) -> None:
        second = EmbeddedPostgres(postgres.data_dir, extra_settings={"fsync": "off"})
        second.start()
        try:
            wait_until(lambda: not postgres.alive())
            assert second.port == postgres.port
            with psycopg.connect(second.url()) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            second.stop()

    def test_starts_beside_a_pid_file_that_names_another_program(self, postgres: EmbeddedPostgres) -> None:
        postgres.stop()
        pid_file = postgres.data_dir / "data" / "postmaster.pid"
        pid_file.write_text(f"{os.getpid()}\n{postgres.data_dir / 'data'}\n")
        postgres.start()
        assert postgres.alive()

    def test_stop_disconnects_clients_and_ends_at_once(self, postgres: EmbeddedPostgres) -> None:
        with psycopg.connect(postgres.url()) as connection:
            started = time.monotonic()
            postgres.stop()
            assert time.monotonic() - started < 3
            assert not postgres.alive()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")

    def test_data_of_another_major_version_is_refused(self, postgres: EmbeddedPostgres) -> None:
        postgres.stop()
        (postgres.data_dir / "data" / "PG_VERSION").write_text("17\n")
        with pytest.raises(EmbeddedServerError, match="written by PostgreSQL 17"):
            postgres.start()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run the server as another user")
    def test_root_runs_it_as_another_user_and_is_told_of_a_folder_that_one_cannot_enter(
        self, folder: Path, postgres: EmbeddedPostgres
    ) -> None:
        assert os.stat(f"/proc/{postgres.pid}").st_uid != 0
        (folder / "closed").mkdir(mode=0o700)
        with pytest.raises(EmbeddedServerError, match=r"may not enter .*closed"):
            EmbeddedPostgres(folder / "closed" / "postgres").start()

    def test_a_missing_wheel_is_reported_with_what_to_do(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres_module, "_PACKAGE", "no_such_package")
        assert not EmbeddedPostgres.available()
        with pytest.raises(EmbeddedServerError, match=r"boost-streams\[embedded\].*DATABASE_URL"):
            EmbeddedPostgres(folder / "postgres").start()


class TestRedis:
    def test_answers_and_comes_back_empty_on_the_same_port_after_a_crash(self, tmp_path: Path) -> None:
        server = EmbeddedRedis(tmp_path / "redis")
        server.start()
        try:
            url = server.url
            redis.from_url(url).set("key", "value")
            server.kill()
            server.start()
            assert server.url == url
            assert redis.from_url(url).get("key") is None
        finally:
            server.stop()
        assert not server.alive()


class TestBroker:
    async def test_a_group_consumes_what_was_produced_and_forgets_it_on_a_restart(self) -> None:
        broker = EmbeddedBroker()
        broker.start()
        try:
            record = await _round_trip(broker.bootstrap, b"x" * 1_000_000)
            assert len(record) == 1_000_000
            before = broker.bootstrap
            broker.stop()
            assert not broker.alive()
            broker.start()
            consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap)
            await consumer.start()
            assert "events" not in await consumer.topics(), before
            await consumer.stop()
        finally:
            broker.kill()

    async def test_the_first_member_of_a_group_need_not_wait_for_others(self) -> None:
        broker = EmbeddedBroker()
        broker.start()
        started = time.monotonic()
        consumer = AIOKafkaConsumer("events", bootstrap_servers=broker.bootstrap, group_id="boost")
        await consumer.start()
        assert len(consumer.assignment()) == 4
        assert time.monotonic() - started < 2.5  # librdkafka's own delay is 3 s
        await consumer.stop()
        broker.stop()


async def _round_trip(bootstrap: str, value: bytes, **client: object) -> bytes:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=8_388_608, **client)
    await producer.start()
    try:
        await asyncio.wait_for(producer.send_and_wait("events", value), 20)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(
        "events", bootstrap_servers=bootstrap, group_id="boost", auto_offset_reset="earliest", **client
    )
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), 20)
        await consumer.commit()
        return bytes(record.value)
    finally:
        await consumer.stop()


async def _declare(bootstrap: str, **client: object) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **client)
    await admin.start()
    await admin.create_topics([NewTopic("events", num_partitions=1, replication_factor=1)])
    await admin.close()


class TestKafkaTools:
    def test_missing_java_and_maven_are_reported_with_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("BOOST_CACHE_DIR", str(tmp_path))
        assert cache_folder() == tmp_path
        with pytest.raises(EmbeddedServerError, match=r"Java 17.*install"):
            java_program()
        with pytest.raises(EmbeddedServerError, match="no mvn on PATH: install"):
            kafka_jars()

    def test_an_old_java_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        java = tmp_path / "java"
        java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
        java.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv("JAVA_HOME", raising=False)
        with pytest.raises(EmbeddedServerError, match=r"Java 17 or newer; .*11\.0\.2"):
            LocalKafka(tmp_path / "kafka", jars_dir=tmp_path).start()


@pytest.mark.kafka
class TestKafka:
    async def test_keeps_port_and_records_over_a_crash_and_forgets_them_when_wiped(self, tmp_path: Path) -> None:
        kafka = LocalKafka(tmp_path / "kafka", port=free_port())
        kafka.start()
        try:
            bootstrap = kafka.bootstrap
            await _declare(bootstrap)
            assert len(await _round_trip(bootstrap, b"x" * 7_000_000)) == 7_000_000
            kafka.kill()
            assert not kafka.alive()
            kafka.start()
            assert kafka.bootstrap == bootstrap
            assert await _round_trip(bootstrap, b"second") == b"second"
            kafka.wipe()
            kafka.start()
            consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
            await consumer.start()
            assert "events" not in await consumer.topics()
            await consumer.stop()
        finally:
            kafka.stop()
        assert not kafka.alive()

    async def test_a_secured_broker_takes_only_the_password_over_tls(self, tmp_path: Path) -> None:
        kafka = LocalKafka(tmp_path / "kafka", security=KafkaSecurity("boost", "right"))
        kafka.start()
        try:
            context = ssl.create_default_context(cafile=str(kafka.ca_file))
            right = {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": "boost",
                "sasl_plain_password": "right",
                "ssl_context": context,
            }
            await _declare(kafka.bootstrap, **right)
            assert await _round_trip(kafka.bootstrap, b"secret", **right) == b"secret"
            strangers = (
                {},
                {**right, "sasl_plain_password": "wrong"},
                {**right, "ssl_context": ssl.create_default_context()},
                {"security_protocol": "SSL", "ssl_context": context},
            )
            for stranger in strangers:
                client = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=3_000, **stranger)
                with pytest.raises(KafkaConnectionError):
                    await asyncio.wait_for(client.start(), 20)
                await client.stop()
        finally:
            kafka.kill()
