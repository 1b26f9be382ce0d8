"""``boost``: the command that everything on the command line hangs under.

A command's module is imported when it is called for: ``boost --help`` stays quick, and ``boost worker`` loads
nothing of the servers that ``boost dev`` runs.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import click

from boost_streams import __version__
from boost_streams.errors import BoostError, ConfigurationError

_EXIT_ERROR = 1
_EXIT_CONFIGURATION = 2
#: Commands that choose servers by themselves, or must be told them.
_STARTING_SERVERS = ("dev", "worker")


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is found, as ``module:attribute``, and what the list of commands says of it."""

    where: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


COMMANDS = {
    "dev": LazyCommand("boost_streams.cli.dev:dev", "Run Boost on this machine, with nothing to set up."),
    "migrate": LazyCommand("boost_streams.cli.migrate:migrate", "Bring the database to the newest schema."),
    "worker": LazyCommand("boost_streams.cli.worker:worker", "Run one worker: web, agents, sweeper."),
    "projects": LazyCommand("boost_streams.cli.projects:projects", "Create, list and delete projects."),
    "keys": LazyCommand("boost_streams.cli.keys:keys", "Create, list and revoke API keys of a project."),
    "send": LazyCommand("boost_streams.cli.send:send", "Send events to a worker."),
    "events": LazyCommand("boost_streams.cli.events:events", "List, show and retry a project's events."),
    "counters": LazyCommand("boost_streams.cli.counters:counters", "Show what a project's events were counted as."),
    "dead-letters": LazyCommand(
        "boost_streams.cli.dead_letters:dead_letters", "List, show, replay and discard what failed for good."
    ),
    "replay": LazyCommand("boost_streams.cli.replay:replay", "Run stored events again through a new handler."),
    "topics": LazyCommand(
        "boost_streams.cli.topics:topics", "Show topics, how far their readers are behind; pause and resume."
    ),
    "doctor": LazyCommand("boost_streams.cli.doctor:doctor", "Check settings and servers; say what to do."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, and which ends our own errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command.

        Raises:
            click.ClickException: It needs a package that is not installed.
        """
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        try:
            return found.load()
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in ("boost_streams", "db", "web", "agents", "tables"):
                raise
            raise click.ClickException(
                f"boost {cmd_name} needs the package {error.name}, which is not installed: "
                "pip install 'boost-streams[embedded]'"
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what Boost raises on purpose becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            click.echo(error.message, err=True)
            ctx.exit(_EXIT_CONFIGURATION)
        except BoostError as error:
            click.echo(f"boost: {error.message}", err=True)
            ctx.exit(_EXIT_ERROR)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="boost")
@click.pass_context
def cli(context: click.Context) -> None:
    """Boost Streams: durable event analytics on your own PostgreSQL and Kafka.

    Settings come from the environment: DATABASE_URL, KAFKA_BROKER, REDIS_URL and others. Where none of these is set,
    and boost dev runs in this folder, its servers are meant.
    """
    if context.invoked_subcommand not in _STARTING_SERVERS:
        from boost_streams.cli.dev_servers import use_running_servers

        use_running_servers()
