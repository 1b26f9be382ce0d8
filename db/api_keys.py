"""API keys of a project: made, listed, revoked, and found by their hash. The key itself is never stored."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import uuid_utils.compat

from boost_streams.api_key import hash_key, prefix_of
from boost_streams.errors import Forbidden, NotFound
from db.pool import Connection, Database

#: What a key may be allowed to do: send events, ask questions, manage keys.
SCOPES = ("ingest", "read", "admin")
#: Every revocation is announced here, in its own transaction; the payload is the key's hash in hex.
REVOKED_CHANNEL = "boost_key_revoked"
#: `last_used_at` is written at most this often per key (seconds).
TOUCH_SECONDS = 60.0

_CREATE = """
INSERT INTO api_keys (id, project_id, key_hash, prefix, name, scopes) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, prefix, name, scopes, created_at, last_used_at, revoked_at
"""
_LIST = """
SELECT id, prefix, name, scopes, created_at, last_used_at, revoked_at FROM api_keys
WHERE project_id = $1 ORDER BY created_at, id
"""
# A second revocation keeps the first one's time, and announces it again: that mends a message that was lost.
_REVOKE = f"""
WITH revoked AS (
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE project_id = $1 AND id = $2
    RETURNING id, key_hash, revoked_at)
SELECT id, key_hash, revoked_at, pg_notify('{REVOKED_CHANNEL}', encode(key_hash, 'hex')) FROM revoked
"""  # noqa: S608 - only a constant is put in
_REVOKE_ALL = f"""
WITH revoked AS (
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE project_id = $1 RETURNING key_hash)
SELECT key_hash, pg_notify('{REVOKED_CHANNEL}', encode(key_hash, 'hex')) FROM revoked
"""  # noqa: S608 - only a constant is put in
# now() is the start of the transaction, before the snapshot (statement_timestamp() may lie after): a
# revocation that the row does not show was committed, and announced, after `read_at`.
_FIND = """
SELECT id, project_id, scopes, now() AS read_at FROM api_keys
WHERE key_hash = $1 AND revoked_at IS NULL
"""
_OWNER = "SELECT project_id FROM api_keys WHERE id = $1"
_TOUCH = """
WITH due AS (
    SELECT id FROM api_keys
    WHERE id = ANY($1::uuid[]) AND (last_used_at IS NULL OR last_used_at <= now() - make_interval(secs => $2))
    ORDER BY id FOR UPDATE SKIP LOCKED)
UPDATE api_keys k SET last_used_at = now() FROM due d WHERE k.id = d.id
"""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What may be shown of a key."""

    id: UUID
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: dt.datetime
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A valid key: whose it is, what it may do, and the database's time just before it was read."""

    key_id: UUID
    project_id: UUID
    scopes: tuple[str, ...]
    read_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Revocation:
    """A key that is revoked, since when, and the hash under which caches know it."""

    key_id: UUID
    key_hash: bytes
    revoked_at: dt.datetime


async def create_key(
    connection: Connection,
    project_id: UUID,
    key: str,
    name: str,
    *,
    scopes: Sequence[str] = SCOPES,
    new_id: Callable[[], UUID] = uuid_utils.compat.uuid7,
) -> ApiKey:
    """Store a key of a project, by its hash. The connection is the project's.

    Raises:
        NotFound: There is no such project.
        asyncpg.UniqueViolationError: The key is known already.
    """
    try:
        row = await connection.fetchrow(
            _CREATE, new_id(), project_id, hash_key(key), prefix_of(key), name, list(scopes)
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound(f"there is no project {project_id}") from None
    return _key_of_row(row)


async def list_keys(connection: Connection, project_id: UUID) -> list[ApiKey]:
    """List a project's keys, revoked ones as well, oldest first."""
    return [_key_of_row(row) for row in await connection.fetch(_LIST, project_id)]


async def revoke_key(connection: Connection, project_id: UUID, key_id: UUID) -> Revocation | None:
    """Revoke a key of a project and announce it, in the connection's transaction.

    Returns:
        The revocation, with the time of the first one if it was revoked before; None if this project has no
        such key, and nothing was changed.
    """
    row = await connection.fetchrow(_REVOKE, project_id, key_id)
    return Revocation(row["id"], row["key_hash"], row["revoked_at"]) if row else None


async def revoke_or_explain(database: Database, project_id: UUID, key_id: UUID) -> Revocation:
    """Revoke a key of a project, committed when this returns.

    Raises:
        Forbidden: It is another project's key; nothing was changed.
        NotFound: There is no key with this id.
    """
    async with database.for_project(project_id) as connection:
        revocation = await revoke_key(connection, project_id, key_id)
    if revocation is not None:
        return revocation
    async with database.across_projects() as connection:
        owner = await owner_of_key_across_projects(connection, key_id)
    if owner is None:
        raise NotFound(f"there is no API key {key_id}")
    raise Forbidden(f"the API key {key_id} belongs to another project")


async def revoke_all_across_projects(connection: Connection, project_id: UUID) -> list[bytes]:
    """Revoke every key of a project and announce each; returns their hashes."""
    return [row["key_hash"] for row in await connection.fetch(_REVOKE_ALL, project_id)]


async def find_by_hash_across_projects(connection: Connection, key_hash: bytes) -> FoundKey | None:
    """Return the valid key with this hash, or None when it is unknown or revoked."""
    row = await connection.fetchrow(_FIND, key_hash)
    return FoundKey(row["id"], row["project_id"], tuple(row["scopes"]), row["read_at"]) if row else None


async def owner_of_key_across_projects(connection: Connection, key_id: UUID) -> UUID | None:
    """Return the project that owns a key, or None when there is no such key."""
    owner: UUID | None = await connection.fetchval(_OWNER, key_id)
    return owner


async def touch_across_projects(connection: Connection, key_ids: Sequence[UUID]) -> int:
    """Note that keys have just been used, each at most once a minute; returns how many were written."""
    tag: str = await connection.execute(_TOUCH, list(key_ids), TOUCH_SECONDS)
    return int(tag.rpartition(" ")[2])


def _key_of_row(row: Any) -> ApiKey:
    return ApiKey(**{**dict(row), "scopes": tuple(row["scopes"])})
