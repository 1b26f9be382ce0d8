"""The folder in which ``boost dev`` keeps everything, and the lock that makes it one owner's at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boost_streams.embedded.process import EmbeddedServerError
from boost_streams.embedded.server_user import ServerUser

_OUTSIDE_HOME = Path("/var/lib/boost-streams")
_MODE_OF_ORDINARY_USER = 0o700
_MODE_OF_ROOT = 0o711  # the server's user has to get through


def default_data_folder(project: Path) -> Path:
    """Return ``.boost`` in ``project``; for root, one outside home if the server's user cannot enter it."""
    ours = project.absolute() / ".boost"
    user = ServerUser.when_root()
    if user is None or user.can_enter(project):
        return ours
    digest = hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:10]
    return _OUTSIDE_HOME / f"dev-{digest}"


def make_data_folder(folder: Path) -> None:
    """Make the folder, closed to other users (root's can be passed through), and ignored by git.

    Raises:
        EmbeddedServerError: it cannot be made.
    """
    mode = _MODE_OF_ROOT if os.geteuid() == 0 else _MODE_OF_ORDINARY_USER
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            folder.chmod(mode)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise EmbeddedServerError(f"the data folder cannot be used: {error}; choose one with --data-dir") from error


def has_owner(folder: Path) -> bool:
    """Tell whether a process holds the folder's lock."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel lets go when this process ends, however it ends.

    Raises:
        EmbeddedServerError: another process holds it; the message names its pid.
    """
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise EmbeddedServerError(
                f"another boost dev (pid {lock.read().strip()}) uses {folder}: stop it, or give this one "
                "its own --data-dir and --port"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
