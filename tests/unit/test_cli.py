"""The command line itself: what it imports, how it ends, what it says of itself."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from boost_streams.cli import context, main, projects
from boost_streams.cli import keys as keys_module
from boost_streams.cli.main import COMMANDS, LazyCommand, cli
from boost_streams.errors import ConfigurationError, FieldProblem, Unavailable

pytestmark = pytest.mark.usefixtures("restored_logging")

HEAVY = ("faust", "aiohttp", "asyncpg", "pydantic", "redis", "sqlalchemy", "rich", "boost_streams.settings", "db.pool")


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=env)


def imported_after(statement: str) -> set[str]:
    """The modules a fresh interpreter holds after running a statement."""
    script = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_help_lists_every_command_and_imports_none() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    for name, command in COMMANDS.items():
        assert name in shown.output
        assert command.help in shown.output
    loaded = imported_after(
        "from click.testing import CliRunner; from boost_streams.cli.main import cli; CliRunner().invoke(cli, ['-h'])"
    )
    assert not loaded & set(HEAVY)


def test_a_worker_loads_nothing_of_the_embedded_servers() -> None:
    loaded = imported_after("from boost_streams.cli.main import COMMANDS; COMMANDS['worker'].load()")
    assert "boost_streams.cli.worker" in loaded
    assert not [name for name in loaded if name.startswith("boost_streams.embedded")]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    command = COMMANDS[name].load()
    assert command.name == name
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: cli " + name)


def test_an_unknown_command() -> None:
    done = run("nonsense")
    assert done.exit_code == 2
    assert "No such command" in done.output


def test_the_version() -> None:
    from boost_streams import __version__

    shown = run("--version")
    assert (shown.exit_code, shown.output) == (0, f"boost, version {__version__}\n")


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], Result]:
    """Run a command that raises."""

    def run_raising(error: Exception) -> Result:
        @click.command()
        def broken() -> None:
            raise error

        module = types.ModuleType("boost_streams.cli.broken")
        module.broken = broken  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main.COMMANDS, "broken", LazyCommand("boost_streams.cli.broken:broken", "Raises."))
        return run("broken")

    return run_raising


def test_wrong_settings_end_with_code_2_and_name_the_variable(raising: Callable[[Exception], Result]) -> None:
    done = raising(ConfigurationError((FieldProblem("DATABASE_URL", "must be set"),)))
    assert done.exit_code == 2
    assert done.stderr == "The configuration is not usable:\n  DATABASE_URL: must be set\n"
    assert done.stdout == ""


def test_our_own_errors_end_with_code_1_and_no_traceback(raising: Callable[[Exception], Result]) -> None:
    done = raising(Unavailable("PostgreSQL does not answer"))
    assert (done.exit_code, done.stderr) == (1, "boost: PostgreSQL does not answer\n")


def test_a_bug_is_not_hidden(raising: Callable[[Exception], Result]) -> None:
    done = raising(ZeroDivisionError())
    assert isinstance(done.exception, ZeroDivisionError)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: LazyCommand) -> click.Command:
        raise ModuleNotFoundError("No module named 'confluent_kafka'", name="confluent_kafka")

    monkeypatch.setattr(LazyCommand, "load", load)
    done = run("dev")
    assert done.exit_code == 1
    assert "confluent_kafka" in done.stderr
    assert "boost-streams[embedded]" in done.stderr


@pytest.mark.parametrize("arguments", [("migrate",), ("worker",), ("projects", "list")])
def test_commands_read_the_settings_first(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, env={"NODE_ENV": "production", "DATABASE_URL": "", "KAFKA_BROKER": "", "REDIS_URL": ""})
    assert done.exit_code == 2
    assert "DATABASE_URL" in done.stderr


def test_a_worker_with_wrong_roles_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOST_ROLES", "web")
    done = run("worker", "--roles", "web,nonsense")
    assert done.exit_code == 2
    assert "BOOST_ROLES" in done.stderr


def test_a_worker_is_fausts_worker_with_the_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from faust.cli.faust import cli as faust

    calls: list[list[str]] = []
    monkeypatch.setattr(faust, "main", lambda args, prog_name: calls.append(args))
    monkeypatch.setenv("BOOST_ROLES", "web")
    monkeypatch.setenv("PORT", "1")
    done = run("worker", "--roles", "agents,sweeper", "--port", "7001")
    assert done.exit_code == 0, done.output
    assert calls == [["-A", "boost_streams.worker", "worker", "-l", "info"]]
    assert (os.environ["BOOST_ROLES"], os.environ["PORT"]) == ("agents,sweeper", "7001")


def test_a_database_that_is_away() -> None:
    env = {"NODE_ENV": "test", "DATABASE_URL": "postgresql://postgres@127.0.0.1:1/none"}
    done = run("projects", "list", env=env)
    assert done.exit_code == 1
    assert done.stderr.startswith("boost: PostgreSQL cannot be used")


@pytest.mark.parametrize("name", ["", "  ", "a\tb", "x" * 201])
def test_names_are_checked(name: str) -> None:
    done = run("projects", "create", name)
    assert done.exit_code == 2
    assert "printable" in done.stderr


def test_json_and_tables_need_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    context.show_json({"a": 1})
    context.show_table(("id", "name", "note"), [("[red]1", None, "x" * 150)])
    out = capsys.readouterr().out
    assert out.startswith('{"a":1}\n')
    assert "[red]1" in out
    assert "x" * 150 in out
    assert max(len(line) for line in out.splitlines()) < 200


def test_groups_have_their_commands() -> None:
    assert set(projects.projects.commands) == {"create", "list", "retain", "delete"}
    assert set(keys_module.keys.commands) == {"create", "list", "revoke"}
