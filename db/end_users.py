"""End users of a project: traits merged per key by the newest event, first and last seen, sign-up, logins."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from db.pool import Connection

#: Locks rows in the order of the lists (db/migrations/sql/0003_settle_at_once.sql).
_SEE = """
SELECT boost_see_end_users($1::uuid[], $2::uuid[], $3::text[], $4::jsonb[], $5::jsonb[], $6::timestamptz[],
    $7::timestamptz[], $8::timestamptz[], $9::bigint[])
"""

_encoder = msgspec.json.Encoder(decimal_format="number")


@dataclass(slots=True)
class Sighting:
    """What a batch of events says about one end user. `versions` sorts: the time and id that set each trait."""

    project_id: UUID
    user_id: str
    first_seen_at: dt.datetime
    last_seen_at: dt.datetime
    traits: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    signed_up_at: dt.datetime | None = None
    logins: int = 0

    @property
    def id(self) -> UUID:
        """The row's id: BLAKE2b (16 bytes) over project and user id."""
        digest = hashlib.blake2b(self.project_id.bytes + self.user_id.encode(), digest_size=16).digest()
        return UUID(bytes=digest)

    def set_trait(self, name: str, value: Any, version: str) -> None:
        """Set a trait unless a newer event has set it."""
        if version >= self.versions.get(name, ""):
            self.traits[name] = value
            self.versions[name] = version


def trait_version(occurred_at: dt.datetime, event_id: UUID, handler_version: int = 1) -> str:
    """Return the text by which trait values are ordered: UTC time to the microsecond, event id, version of the handler.

    The first version is left out, and sorts before the others: of one event, the newest handler's value holds.
    """
    first = f"{occurred_at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%S.%f}Z/{event_id}"
    return first if handler_version == 1 else f"{first}/{handler_version:010d}"


def sighting_parameters(sightings: Sequence[Sighting]) -> tuple[Sequence[object], ...]:
    """Return the lists of `boost_see_end_users`, sorted by the primary key."""
    rows = sorted(((s, s.id) for s in sightings), key=lambda pair: (pair[0].project_id, pair[1]))
    return (
        [s.project_id for s, _ in rows],
        [row_id for _, row_id in rows],
        [s.user_id for s, _ in rows],
        [_encoder.encode(s.traits) for s, _ in rows],
        [_encoder.encode(s.versions) for s, _ in rows],
        [s.first_seen_at for s, _ in rows],
        [s.last_seen_at for s, _ in rows],
        [s.signed_up_at for s, _ in rows],
        [s.logins for s, _ in rows],
    )


async def see_across_projects(connection: Connection, sightings: Sequence[Sighting]) -> None:
    """Merge sightings into `end_users`: one statement, rows locked in the order of their keys."""
    if sightings:
        await connection.execute(_SEE, *sighting_parameters(sightings))
