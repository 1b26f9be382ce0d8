"""The unprivileged user that a server runs as when ``boost dev`` itself runs as root."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boost_streams.embedded.process import EmbeddedServerError


@dataclass(frozen=True, slots=True)
class ServerUser:
    """A user of this machine, by name and ids."""

    name: str
    uid: int
    gid: int

    @classmethod
    def when_root(cls, names: Sequence[str] = ("postgres", "nobody")) -> ServerUser | None:
        """Return the first of ``names`` that exists here, or None when this process is not root.

        Raises:
            EmbeddedServerError: this process is root and none of the users exists.
        """
        if os.geteuid() != 0:
            return None
        for name in names:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedServerError(f"running as root needs one of the users {', '.join(names)} to run the server as")

    def can_enter(self, folder: Path) -> bool:
        """Tell whether this user may go through every existing parent of ``folder``, and itself."""
        path = folder.absolute()
        return all(self._may_search(part) for part in (path, *path.parents) if part.is_dir())

    def _may_search(self, folder: Path) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & 0o100)
        if status.st_gid == self.gid:
            return bool(status.st_mode & 0o010)
        return bool(status.st_mode & 0o001)
