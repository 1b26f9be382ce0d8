"""What an operator wants to know of the server and the workers: version, durability, roles, who is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from boost_streams.errors import Unavailable
from db.pool import CONNECT_SECONDS, STATEMENT_SECONDS, Connection, prepare_connection
from db.workers import DEAD_AFTER_SECONDS

#: Major versions of PostgreSQL that Boost is tested with.
OLDEST_MAJOR, NEWEST_MAJOR = 15, 18

_SERVER = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       current_setting('fsync')::boolean AS fsync,
       current_setting('full_page_writes')::boolean AS full_page_writes,
       current_setting('synchronous_commit') <> 'off' AS synchronous_commit
"""
_ALIVE = "SELECT count(*) FROM workers WHERE heartbeat_at >= now() - make_interval(secs => $1)"
_ROLES = "SELECT rolname, rolsuper OR rolbypassrls AS bypasses FROM pg_roles WHERE rolname = ANY($1::name[])"
_SET_ROLE = {name: f"SET ROLE {name}" for name in ("boost_owner", "boost_pipeline", "boost_tenant")}
_RESET_ROLE = "SET ROLE NONE"


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server: its version, and whether a power failure can lose what it acknowledged."""

    version: str
    major: int
    fsync: bool
    full_page_writes: bool
    synchronous_commit: bool

    @property
    def durability_problem(self) -> str | None:
        """Say which setting lets a crash lose or damage what was committed, and what to do."""
        off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if not getattr(self, name)]
        if not off:
            return None
        return (
            f"{' and '.join(off)} off: a crash of the server or its machine loses accepted events; set to on in "
            "postgresql.conf (or where ALTER SYSTEM, ALTER DATABASE or ALTER ROLE set it off)"
        )


@dataclass(frozen=True, slots=True)
class RoleState:
    """One of the three roles: is it there, may this login act as it, does row-level security bind it."""

    name: str
    exists: bool
    usable: bool
    bypasses: bool


async def connect_as_login(database_url: str) -> asyncpg.Connection[Any]:
    """Connect as whoever the URL names, as no role of ours: for looking at a database that may not be set up.

    Raises:
        Unavailable: The server does not answer, or refuses the login; says which.
    """
    try:
        connection = await asyncpg.connect(database_url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise Unavailable(str(error) or type(error).__name__) from error
    await prepare_connection(connection)
    return connection


async def act_as_pipeline(connection: Connection) -> None:
    """Go on as `boost_pipeline` on a connection of `connect_as_login`."""
    await connection.execute(_SET_ROLE["boost_pipeline"])


async def server_facts(connection: Connection) -> Server:
    """Read the server's version and settings."""
    row = await connection.fetchrow(_SERVER)
    assert row is not None
    return Server(**dict(row))


async def workers_alive_across_projects(connection: Connection) -> int:
    """Count the workers whose heartbeat is recent."""
    alive: int = await connection.fetchval(_ALIVE, DEAD_AFTER_SECONDS)
    return alive


async def role_states(connection: Connection) -> list[RoleState]:
    """Try each of the three roles on a connection of `connect_as_login`."""
    bypasses = {row["rolname"]: row["bypasses"] for row in await connection.fetch(_ROLES, list(_SET_ROLE))}
    states = []
    for name, statement in _SET_ROLE.items():
        usable = name in bypasses
        try:
            if usable:
                await connection.execute(statement)
                await connection.execute(_RESET_ROLE)
        except asyncpg.InsufficientPrivilegeError:
            usable = False
        states.append(RoleState(name, name in bypasses, usable, bypasses.get(name, False)))
    return states
