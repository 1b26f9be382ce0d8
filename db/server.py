"""What an operator wants to know of the server and the workers: version, durability, roles, who is alive."""

from __future__ import annotations

from dataclasses import dataclass

from db.pool import Connection
from db.workers import DEAD_AFTER_SECONDS

#: Major versions of PostgreSQL that Boost is tested with.
OLDEST_MAJOR, NEWEST_MAJOR = 15, 18

_SERVER = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int / 10000 AS major,
       current_setting('fsync')::boolean AS fsync,
       current_setting('full_page_writes')::boolean AS full_page_writes
"""
_ALIVE = "SELECT count(*) FROM workers WHERE heartbeat_at >= now() - make_interval(secs => $1)"
_ROLES = """
SELECT wanted.name, pg_has_role(session_user, r.oid, 'MEMBER') AS member,
       r.rolsuper OR r.rolbypassrls AS bypasses
FROM unnest(ARRAY['boost_owner', 'boost_pipeline', 'boost_tenant']) AS wanted (name)
LEFT JOIN pg_roles r ON r.rolname = wanted.name
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server: its version, and whether a power failure can lose what it acknowledged."""

    version: str
    major: int
    fsync: bool
    full_page_writes: bool

    @property
    def durability_problem(self) -> str | None:
        """Say which setting lets a power failure lose or damage what was committed, and what to do."""
        off = [name for name in ("fsync", "full_page_writes") if not getattr(self, name)]
        if not off:
            return None
        return f"{' and '.join(off)} off: a power failure loses accepted events; set to on in postgresql.conf"


@dataclass(frozen=True, slots=True)
class RoleState:
    """One of the three roles as this connection finds it; `member` is None when there is no such role."""

    name: str
    member: bool | None
    bypasses: bool | None


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
    """Look at the three roles, and whether the user who logged in may act as them."""
    return [RoleState(**dict(row)) for row in await connection.fetch(_ROLES)]
