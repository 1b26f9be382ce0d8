"""``boost topics pause`` and ``resume``: whether workers handle a family's events."""

from __future__ import annotations

import click

from agents.handlers import load_registry
from boost_streams.cli.context import command_settings, name_of, run_with_database
from boost_streams.settings import Settings
from boost_streams.topics import FAMILIES, family_topic, full_name
from db.pauses import Pause, pause_across_projects, pauses_across_projects, resume_across_projects
from db.pool import Database


@click.command()
@click.argument("name")
@click.option("--reason", default="an operator paused it", callback=name_of, help="What health and logs say of it.")
def pause(name: str, reason: str) -> None:
    """Let no worker handle the events of a family any more; NAME is its topic, or one of its handlers.

    Events are accepted all the same, and wait. Workers notice within about a second.
    """
    topic = topic_of(command_settings(), name)

    async def work(database: Database) -> bool:
        async with database.across_projects() as connection:
            return await pause_across_projects(connection, topic, reason)

    done = run_with_database(work)
    paused = f"{topic} is paused, workers hold it within about a second; boost topics resume {name} lets it go on"
    click.echo(paused if done else f"{topic} is paused already")


@click.command()
@click.argument("name")
def resume(name: str) -> None:
    """Let workers handle the events of a family again; NAME is its topic, or one of its handlers.

    What was waiting is handled in its order. Workers notice within about a second.
    """
    topic = topic_of(command_settings(), name)

    async def work(database: Database) -> bool:
        async with database.across_projects() as connection:
            return await resume_across_projects(connection, topic)

    done = run_with_database(work)
    click.echo(f"{topic} goes on within about a second" if done else f"{topic} was not paused")


def paused_topics() -> list[Pause]:
    """Ask which topics are paused.

    Raises:
        BoostError: As `run_with_database`.
    """

    async def work(database: Database) -> list[Pause]:
        async with database.across_projects() as connection:
            return await pauses_across_projects(connection)

    return run_with_database(work)


def topic_of(settings: Settings, name: str) -> str:
    """Return the full name of the topic that the name of a topic, or of a handler, stands for.

    Raises:
        click.BadParameter: It stands for none that can be paused.
        click.ClickException: A handler cannot be loaded.
    """
    try:
        handlers = load_registry(settings.boost_handler_modules).handlers
    except (ImportError, TypeError, ValueError) as error:
        raise click.ClickException(f"BOOST_HANDLER_MODULES: {error}") from None
    topics = {handler.name: handler.family for handler in handlers}
    for family in FAMILIES:
        topics |= {family_topic(family): family, full_name(settings, family_topic(family)): family}
    if name not in topics:
        raise click.BadParameter(f"no such topic or handler; give one of {', '.join(sorted(topics))}")
    return full_name(settings, family_topic(topics[name]))
