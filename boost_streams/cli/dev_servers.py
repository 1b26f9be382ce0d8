"""How commands find the servers of a ``boost dev`` that runs: a file of exports in its data folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from boost_streams.embedded.data_folder import default_data_folder, has_owner

#: Where any of these is set, the servers are the user's choice.
ADDRESSES = ("DATABASE_URL", "KAFKA_BROKER", "REDIS_URL")
#: What commands must be told like workers, where ``boost dev`` was told.
SHARED_SETTINGS = ("BOOST_HANDLER_MODULES", "PYTHONPATH", "KAFKA_TOPIC_PREFIX", "RETENTION_DAYS")

_WRITABLE_BY_OTHERS = 0o022


def env_file(folder: Path) -> Path:
    """Return the file, in the data folder, that a shell can ``source`` while ``boost dev`` runs."""
    return folder / "env"


@contextmanager
def no_env_file_outlives(folder: Path) -> Iterator[None]:
    """Remove what a killed run has left, and what this run writes when it ends."""
    env_file(folder).unlink(missing_ok=True)
    try:
        yield
    finally:
        env_file(folder).unlink(missing_ok=True)


def write_env_file(folder: Path, variables: Mapping[str, str]) -> None:
    """Write variables as exports; the file is the user's alone, since it holds a key and maybe a password."""
    lines = ["# The boost dev that runs here. Sourced, these servers are taken for yours by the next make run.\n"]
    lines += [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    new = env_file(folder).with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(lines))
    new.replace(env_file(folder))


def read_env_file(file: Path) -> dict[str, str]:
    """Read what `write_env_file` wrote."""
    words = shlex.split(file.read_text(), comments=True)
    return dict(word.split("=", 1) for word in words if word != "export")


def use_running_servers() -> None:
    """Put the variables of the ``boost dev`` of this folder into the environment, and say so on stderr.

    Only where the environment names no server and is none of production or tests, and only of one that runs.
    """
    if any(name in os.environ for name in ADDRESSES):
        return
    if (os.environ.get("NODE_ENV") or os.environ.get("BOOST_ENV") or "development").strip().lower() != "development":
        return
    for folder in dict.fromkeys((Path.cwd() / ".boost", default_data_folder(Path.cwd()))):
        if _is_ours(env_file(folder)) and has_owner(folder):
            _use(read_env_file(env_file(folder)))
            click.echo(f"boost: with the servers of the boost dev that runs in {folder}", err=True)
            return


def _use(variables: Mapping[str, str]) -> None:
    """Set what is not set yet; where handlers are imported from is for this process to follow by itself."""
    if "PYTHONPATH" not in os.environ:
        sys.path.extend(filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)))
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _is_ours(file: Path) -> bool:
    try:
        found = file.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & _WRITABLE_BY_OTHERS
