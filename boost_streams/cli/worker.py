"""``boost worker``: one worker in this process."""

from __future__ import annotations

import os

import click

from boost_streams.settings import load_settings


@click.command()
@click.option("--roles", help="Any of web, agents, sweeper, separated by commas.  [default: BOOST_ROLES, or all]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: PORT, or 6066]")
def worker(roles: str | None, port: int | None) -> None:
    """Run one worker until SIGINT or SIGTERM. The environment holds its settings.

    Workers with the same settings share the work; each needs a PORT and, on one machine, a BOOST_DATA_DIR of
    its own.
    """
    if roles is not None:
        os.environ["BOOST_ROLES"] = roles
    if port is not None:
        os.environ["PORT"] = str(port)
    load_settings()  # what is wrong is said before anything starts

    # Imported here: Faust reads its own settings while it is imported.
    from faust.cli.faust import cli as faust

    faust.main(args=["-A", "boost_streams.worker", "worker", "-l", "info"], prog_name="boost")
