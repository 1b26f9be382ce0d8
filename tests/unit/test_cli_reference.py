"""`docs/reference/cli.md` has a section for every command, with each of its options."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from boost_streams.cli.main import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## boost ([\w-]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def options_of(command: click.Command) -> set[str]:
    own = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    if isinstance(command, click.Group):
        return own.union(*(options_of(child) for child in command.commands.values()))
    return own


def test_page_has_every_command_and_no_other() -> None:
    assert list(SECTIONS) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_every_option_and_no_other(name: str) -> None:
    command = COMMANDS[name].load()
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", SECTIONS[name]))
    assert documented == options_of(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_page_has_every_subcommand(name: str) -> None:
    command = COMMANDS[name].load()
    for child in command.commands if isinstance(command, click.Group) else ():
        assert f"`boost {name} {child}" in SECTIONS[name]
