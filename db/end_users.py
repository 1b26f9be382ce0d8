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

#: Locks rows in the order of the list (db/migrations/sql/0009_rows_in_one_list.sql).
_SEE = "SELECT boost_see_end_users($1::boost_sighting[])"

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


def sighting_rows(sightings: Sequence[Sighting]) -> list[tuple[object, ...]]:
    """Return the list of `boost_see_end_users`, sorted by the primary key."""
    rows = sorted(((s.project_id.int, s.id.int, s) for s in sightings), key=_primary_key)
    return [
        (
            s.project_id,
            UUID(int=number),
            s.user_id,
            _encoder.encode(s.traits),
            _encoder.encode(s.versions),
            s.first_seen_at,
            s.last_seen_at,
            s.signed_up_at,
            s.logins,
        )
        for _, number, s in rows
    ]


def _primary_key(row: tuple[int, int, Sighting]) -> tuple[int, int]:
    return row[0], row[1]


async def see_across_projects(connection: Connection, sightings: Sequence[Sighting]) -> None:
    """Merge sightings into `end_users`: one statement, rows locked in the order of their keys."""
    if sightings:
        await connection.execute(_SEE, sighting_rows(sightings))
