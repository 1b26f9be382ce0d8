"""``boost dev`` end to end: from an empty folder to a processed event, over crashes and restarts."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from boost_streams.cli import dev_session
from boost_streams.cli.dev import as_one_line, boost_line, curl_line, dev
from boost_streams.cli.dev_servers import env_file, use_running_servers, write_env_file
from boost_streams.cli.dev_session import Ready
from boost_streams.cli.main import cli
from boost_streams.embedded.data_folder import default_data_folder, sole_owner
from boost_streams.embedded.process import EmbeddedServerError, command_line, free_port, log_tail, port_is_free
from boost_streams.embedded.redis import EmbeddedRedis
from boost_streams.embedded.supervisor import Supervisor

_BOOST_DEV = "from boost_streams.cli.dev import dev; dev()"
_READY_SECONDS = 90.0
_ALL_GONE_SECONDS = 5.0
_OWN_SERVERS = ("DATABASE_URL", "KAFKA_BROKER", "REDIS_URL")
_READY = Ready(
    url="http://127.0.0.1:6066",
    api_key="bst_test_key",
    project_id="project",
    database_url="postgresql://postgres@127.0.0.1:5432/boost",
    kafka_broker="127.0.0.1:9092",
    redis_url=None,
    workers=(1, 2),
)


T = TypeVar("T")


def wait_for(ask: Callable[[], T | None], seconds: float = 30.0) -> T:
    limit = time.monotonic() + seconds
    while (answer := ask()) is None:
        assert time.monotonic() < limit, "what was waited for did not come in time"
        time.sleep(0.05)
    return answer


@dataclass
class Running:
    """A ``boost dev --json`` that is ready."""

    process: subprocess.Popen[str]
    answer: dict[str, Any]

    def post(self, event: dict[str, Any]) -> str:
        status, body = self._ask("POST", "/events", event)
        assert status == 202, body
        return str(body["id"])

    def post_when_taken(self, event: dict[str, Any]) -> str:
        """Send again while the answer is 503, as clients do: readiness is remembered for half a second."""

        def answer() -> tuple[int, dict[str, Any]] | None:
            status, body = self._ask("POST", "/events", event)
            return None if status == 503 else (status, body)

        status, body = wait_for(answer)
        assert status == 202, body
        return str(body["id"])

    def event(self, event_id: str) -> dict[str, Any]:
        status, body = self._ask("GET", f"/events/{event_id}")
        assert status == 200, body
        return body

    def settled(self, event_id: str, seconds: float = 30.0) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            event = self.event(event_id)
            return event if event["status"] != "pending" else None

        return wait_for(ask, seconds)

    def ready(self) -> bool | None:
        try:
            return self._ask("GET", "/health/ready")[0] == 200 or None
        except OSError:
            return None

    def descendants(self) -> dict[int, str]:
        """Every process below, by pid, with its command line."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
        parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.stdout.splitlines())}
        found: dict[int, str] = {}
        below = {self.process.pid}
        while below:
            below = {pid for pid, parent in parents.items() if parent in below}
            found |= {pid: command_line(pid) for pid in below}
        return {pid: line for pid, line in found.items() if line}

    def child(self, *words: str) -> int | None:
        """The pid of the one process below whose command line has all of ``words``."""
        return next((pid for pid, line in self.descendants().items() if all(w in line for w in words)), None)

    def replaced(self, killed: int, *words: str) -> int | None:
        """The pid of the process that has taken the place of ``killed``."""
        pid = self.child(*words)
        return pid if pid != killed else None

    def _ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"{self.answer['url']}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"x-api-key": self.answer["apiKey"], "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")


@contextmanager
def boost_dev(data_dir: Path, *arguments: str, port: int | None = None) -> Iterator[Running]:
    argv = [sys.executable, "-c", _BOOST_DEV, "--json", "--port", str(port or free_port())]
    env = {name: value for name, value in os.environ.items() if name not in _OWN_SERVERS}
    errors = data_dir.parent / "errors.log"
    with errors.open("a") as log:
        process = subprocess.Popen(
            [*argv, "--data-dir", str(data_dir), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
            start_new_session=True,
        )
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, f"boost dev ended before it was ready:\n{errors.read_text()}"
        yield Running(process, json.loads(line))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        process.stdout.close()
        for log in (errors, *sorted((data_dir / "logs").glob("*.log"))):  # shown when the test fails
            print(f"--- {log.name}\n{log_tail(log, 80)}")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that the database's user can enter, unlike pytest's own when root runs the tests."""
    made = Path(tempfile.mkdtemp(prefix="boost-dev-"))
    made.chmod(0o755)
    yield made / "data"
    shutil.rmtree(made, ignore_errors=True)


def all_gone(pids: dict[int, str]) -> bool | None:
    return not any(command_line(pid) == line for pid, line in pids.items()) or None


PAGE_VIEW = {"eventType": "page_view", "payload": {"url": "/hello"}}


class TestEmbedded:
    def test_from_an_empty_folder_to_a_processed_event_and_again_the_next_day(self, data_dir: Path) -> None:
        with boost_dev(data_dir) as first:
            assert set(first.answer) == {
                "url", "apiKey", "projectId", "databaseUrl", "kafkaBroker", "redisUrl", "workers",
            }  # fmt: skip
            assert first.answer["apiKey"].startswith("bst_test_")
            event_id = first.post(PAGE_VIEW)
            assert first.settled(event_id)["status"] == "processed"
            pids = first.descendants()
            assert first.child("postgres", "-D", str(data_dir)) in pids
            assert set(first.answer["workers"]) <= set(pids)
            first.process.send_signal(signal.SIGINT)
            wait_for(lambda: all_gone(pids), _ALL_GONE_SECONDS)
            assert first.process.wait(_ALL_GONE_SECONDS) == 0
            assert first.process.stdout is not None
            assert first.process.stdout.read() == "", "one line of JSON and nothing else"
        started = time.monotonic()
        with boost_dev(data_dir) as second:
            later = second.post(PAGE_VIEW)
            assert second.answer["apiKey"] == first.answer["apiKey"]
            assert second.answer["databaseUrl"] == first.answer["databaseUrl"]
            assert second.event(event_id)["status"] == "processed"
            assert second.settled(later, 10)["status"] == "processed"
            assert time.monotonic() - started < 20
        assert (data_dir / "demo-key").stat().st_mode & 0o077 == 0

    def test_several_signals_at_once_stop_everything_in_order(self, data_dir: Path) -> None:
        """A closing terminal and `timeout` send several; a handler that took a lock once waited for itself."""
        for _ in range(3):
            with boost_dev(data_dir) as running:
                pids = running.descendants()
                for sent in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                    running.process.send_signal(sent)
                wait_for(lambda pids=pids: all_gone(pids), _ALL_GONE_SECONDS)
                assert running.process.wait(_ALL_GONE_SECONDS) == 0

    def test_what_was_pending_when_everything_was_killed_is_settled_the_next_time(self, data_dir: Path) -> None:
        with boost_dev(data_dir) as first:
            worker = first.answer["workers"][0]
            posted = []
            for _ in range(50):
                posted.append(first.post(PAGE_VIEW))
            os.kill(worker, signal.SIGKILL)
            pids = first.descendants()
            first.process.kill()
            wait_for(lambda: all_gone(pids), _ALL_GONE_SECONDS)
        with boost_dev(data_dir) as second:
            for event_id in posted:
                assert second.settled(event_id)["status"] == "processed"

    def test_whatever_dies_is_started_again_on_its_port(self, data_dir: Path) -> None:
        with boost_dev(data_dir) as running:
            worker = running.answer["workers"][0]
            os.kill(worker, signal.SIGKILL)
            assert wait_for(lambda: running.replaced(worker, "faust", "worker"))
            wait_for(running.ready, 60)
            servers = [("postgres", "-D"), ("redis-server",)] if EmbeddedRedis.available() else [("postgres", "-D")]
            for words in servers:
                killed = running.child(*words)
                assert killed
                os.kill(killed, signal.SIGKILL)
                assert wait_for(functools.partial(running.replaced, killed, *words))
                wait_for(running.ready, 60)
            event_id = running.post_when_taken(PAGE_VIEW)
            assert running.settled(event_id, 60)["status"] == "processed"

    def test_what_a_worker_waits_for_is_said_while_it_waits_and_in_the_end(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dev_session, "_WORKER_READY_SECONDS", 7.0)
        monkeypatch.setenv("KAFKA_BROKER", "127.0.0.1:1")
        for name in ("DATABASE_URL", "REDIS_URL"):
            monkeypatch.delenv(name, raising=False)
        result = CliRunner().invoke(dev, ["--data-dir", str(data_dir), "--port", str(free_port())])
        assert result.exit_code == 1
        said = re.sub(r"\s+", " ", result.stderr)
        assert "worker-0 is waiting for broker: no answer from 127.0.0.1:1" in said
        assert "was not ready within 7 s, waiting for broker: no answer from 127.0.0.1:1" in said

    def test_a_second_run_on_the_same_folder_or_port_is_refused(self, data_dir: Path) -> None:
        port = free_port()
        with boost_dev(data_dir, port=port) as running:
            same_folder = CliRunner().invoke(dev, ["--data-dir", str(data_dir), "--port", str(free_port())])
            assert same_folder.exit_code == 1
            assert f"pid {running.process.pid}" in same_folder.output
            other = data_dir.with_name("other")
            same_port = CliRunner().invoke(dev, ["--data-dir", str(other), "--port", str(port)])
            assert same_port.exit_code == 1
            assert f"port {port} is taken" in same_port.output
            assert "--port" in same_port.output
            assert running.ready()


@pytest.mark.kafka
class TestKafka:
    def test_two_workers_share_a_real_broker_that_may_die(self, data_dir: Path) -> None:
        first_port = _two_free_ports()
        with boost_dev(data_dir, "--kafka", "--workers", "2", port=first_port) as running:
            assert len(running.answer["workers"]) == 2
            assert running.settled(running.post(PAGE_VIEW), 60)["status"] == "processed"
            broker = running.child("kafka.Kafka")
            assert broker
            os.kill(broker, signal.SIGKILL)
            event_id = running.post(PAGE_VIEW)
            assert wait_for(lambda: running.replaced(broker, "kafka.Kafka"))
            assert running.settled(event_id, 120)["status"] == "processed"
            pids = running.descendants()
            running.process.send_signal(signal.SIGINT)
            wait_for(lambda: all_gone(pids), _ALL_GONE_SECONDS)


def _two_free_ports() -> int:
    while True:
        port = free_port()
        if port_is_free(port + 1):
            return port


class TestRefusals:
    def test_more_than_one_worker_without_kafka_is_refused_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KAFKA_BROKER", raising=False)
        result = CliRunner().invoke(dev, ["--workers", "2", "--data-dir", str(tmp_path)])
        assert result.exit_code == 2
        assert "needs a real Kafka" in result.output
        assert "--kafka" in result.output

    def test_the_folders_lock_names_its_owner_and_is_let_go(self, tmp_path: Path) -> None:
        with (
            sole_owner(tmp_path),
            pytest.raises(EmbeddedServerError, match=f"pid {os.getpid()}"),
            sole_owner(tmp_path),
        ):
            pytest.fail("two owners")
        with sole_owner(tmp_path):
            pass

    @pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's servers run as that user")
    def test_root_in_a_closed_folder_keeps_the_data_elsewhere(self, data_dir: Path) -> None:
        open_folder = data_dir.parent / "open"
        closed_folder = data_dir.parent / "closed"
        open_folder.mkdir(mode=0o755)
        closed_folder.mkdir(mode=0o700)
        assert default_data_folder(open_folder) == open_folder / ".boost"
        elsewhere = default_data_folder(closed_folder)
        assert closed_folder not in elsewhere.parents
        assert elsewhere != default_data_folder(closed_folder / "project")


class TestWhatIsPrinted:
    def test_the_line_of_json(self) -> None:
        line = as_one_line(_READY)
        assert "\n" not in line
        assert json.loads(line) == {
            "url": "http://127.0.0.1:6066",
            "apiKey": "bst_test_key",
            "projectId": "project",
            "databaseUrl": "postgresql://postgres@127.0.0.1:5432/boost",
            "kafkaBroker": "127.0.0.1:9092",
            "redisUrl": None,
            "workers": [1, 2],
        }

    def test_the_curl_line_is_one_that_a_shell_reads(self) -> None:
        words = shlex.split(curl_line(_READY))
        assert words[:4] == ["curl", "-X", "POST", "http://127.0.0.1:6066/events"]
        assert "x-api-key: bst_test_key" in words
        assert json.loads(words[-1])["eventType"] == "page_view"

    def test_the_line_with_a_command_loads_addresses_where_the_folder_is_not_the_usual_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert shlex.split(boost_line(default_data_folder(tmp_path)))[1:] == ["counters", "--project", "demo"]
        assert boost_line(Path("/else where")).startswith("source '/else where/env' && ")


class TestCommandsFindServers:
    """A command in the folder of a ``boost dev`` that runs is about its servers, unless it is told others."""

    @pytest.fixture
    def folder(self, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        data_dir.mkdir(mode=0o755)
        monkeypatch.chdir(data_dir)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("BOOST_", "NODE_ENV"))}
        monkeypatch.setattr(os, "environ", {n: v for n, v in environment.items() if n not in _OWN_SERVERS})
        return data_dir / ".boost"

    def test_those_of_a_session_from_its_start_to_its_end(self, folder: Path) -> None:
        def list_events(**more: str) -> subprocess.CompletedProcess[str]:
            argv = [sys.executable, "-c", "from boost_streams.cli.main import cli; cli()"]
            argv += ["events", "list", "--project", "demo", "--json"]
            environment = {**os.environ, **more}
            return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)

        with boost_dev(folder) as running:
            event_id = running.post(PAGE_VIEW)
            found = list_events()
            assert found.returncode == 0, found.stderr
            assert [event["id"] for event in json.loads(found.stdout)["items"]] == [event_id]
            assert f"boost dev that runs in {folder}" in found.stderr
            told = list_events(DATABASE_URL="postgresql://postgres@127.0.0.1:1/boost")
            assert (told.returncode, "that runs in" in told.stderr) == (1, False)
            shell = f". {shlex.quote(str(folder / 'env'))} && echo $DATABASE_URL $BOOST_API_KEY"
            sourced = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
            assert sourced.stdout.split() == [running.answer["databaseUrl"], running.answer["apiKey"]]
            assert (folder / "env").stat().st_mode & 0o077 == 0
        assert not (folder / "env").exists()
        assert "that runs in" not in list_events().stderr

    def test_only_of_one_that_runs_and_is_the_users(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.mkdir()
        variables = {"DATABASE_URL": "postgresql://h/it's", "BOOST_URL": "http://there", "PYTHONPATH": "/srv/a:/srv/b"}
        write_env_file(folder, variables)
        os.environ.pop("PYTHONPATH", None)
        monkeypatch.setattr(sys, "path", list(sys.path))
        use_running_servers()  # nobody holds the lock: it was killed
        assert "DATABASE_URL" not in os.environ
        with sole_owner(folder):
            for name, value in (("REDIS_URL", ""), ("NODE_ENV", "production"), ("BOOST_ENV", "test")):
                os.environ[name] = value
                use_running_servers()
                del os.environ[name]
            env_file(folder).chmod(0o620)  # others may write it
            use_running_servers()
            assert "DATABASE_URL" not in os.environ
            assert capsys.readouterr().err == ""
            env_file(folder).chmod(0o600)
            os.environ["BOOST_URL"] = "http://here"
            use_running_servers()
        assert (os.environ["DATABASE_URL"], os.environ["BOOST_URL"]) == ("postgresql://h/it's", "http://here")
        assert str(folder) in capsys.readouterr().err
        assert sys.path[-2:] == ["/srv/a", "/srv/b"]


class _Flaky:
    """A server that dies ``deaths`` times as soon as it was started."""

    stop_seconds = 1.0

    def __init__(self, name: str, journal: list[str], deaths: int = 0) -> None:
        self.name = name
        self._journal = journal
        self._deaths = deaths
        self._running = False

    def start(self) -> None:
        self._journal.append(f"start {self.name}")
        self._running = self._deaths == 0
        self._deaths = max(0, self._deaths - 1)

    def alive(self) -> bool:
        return self._running

    def last_words(self) -> str:
        return f"{self.name} died"

    def stop(self, grace: float) -> None:
        self._journal.append(f"stop {self.name}")
        self._running = False

    def kill(self) -> None:
        self._running = False


class TestSupervisor:
    def test_starts_again_what_dies_and_stops_in_reverse_order(self) -> None:
        journal: list[str] = []
        news: list[str] = []
        database, worker = _Flaky("database", journal), _Flaky("worker", journal, deaths=2)
        supervisor = Supervisor(news.append)
        supervisor.add_stage(database)
        supervisor.add_stage(worker)
        supervisor.wait_for(supervisor.launch(database.start), supervisor.launch(worker.start))
        keeping = supervisor.launch(supervisor.keep_running)
        wait_for(lambda: worker.alive() or None)
        supervisor.stop()
        assert keeping.result(5) is None
        assert journal.count("start worker") == 3
        assert journal[-2:] == ["stop worker", "stop database"]
        assert ["worker died" in piece for piece in news] == [True, True]
        assert "in 0.5 s" in news[1]

    def test_what_is_stopped_just_as_it_is_looked_at_is_not_said_to_have_died(self) -> None:
        looked, stopped = threading.Event(), threading.Event()

        class Looked(_Flaky):
            def alive(self) -> bool:
                looked.set()
                return stopped.wait(5) and super().alive()

            def stop(self, grace: float) -> None:
                super().stop(grace)
                stopped.set()

        journal: list[str] = []
        news: list[str] = []
        supervisor = Supervisor(news.append)
        server = Looked("server", journal)
        supervisor.add_stage(server)
        server.start()
        keeping = supervisor.launch(supervisor.keep_running)
        assert looked.wait(5)
        supervisor.stop()
        assert keeping.result(5) is None
        wait_for(lambda: not any(thread.is_alive() for thread in supervisor._threads) or None)
        assert news == []
        assert journal == ["start server", "stop server"]

    def test_a_failed_start_is_what_the_wait_raises(self) -> None:
        def fail() -> None:
            raise EmbeddedServerError("no disk")

        supervisor = Supervisor(lambda news: None)
        with pytest.raises(EmbeddedServerError, match="no disk"):
            supervisor.wait_for(supervisor.launch(fail))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("DATABASE_URL", "mysql://x"),
            ("DATABASE_URL", "postgresql://u:s3cret@[bad/x"),
            ("DATABASE_URL", "postgresql://u:s3cret@h:port/x"),
            ("REDIS_URL", "redis://h:port/0"),
            ("KAFKA_BROKER", "::::"),
        ],
    )
    def test_wrong_settings_end_it_before_anything_starts(self, tmp_path: Path, name: str, value: str) -> None:
        result = CliRunner().invoke(cli, ["dev", "--data-dir", str(tmp_path / "data")], env={name: value})
        assert result.exit_code == 2, result.output
        assert name in result.output
        assert "s3cret" not in result.output
        assert not (tmp_path / "data").exists()
