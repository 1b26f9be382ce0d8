"""Events on their way in, and how they are written for PostgreSQL: as a list of rows in its own binary format.

The driver would write the same rows from tuples of Python objects, field by field, for twice the time (docs/adr/0032).
The format is what `array_recv` and `record_recv` read: a header and, for each row, its length, then for each field its
type, its length (-1: null) and its value, all numbers with the high byte first.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Sequence
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec

from db.codecs import set_list_codec
from db.pool import Connection

#: What PostgreSQL calls the types of the fields; these never change.
_UUID, _TEXT, _JSONB, _TIMESTAMPTZ = 2950, 25, 3802, 1184
_field_head = struct.Struct(">Ii").pack
_when = struct.Struct(">Iiq").pack
_header = struct.Struct(">iiIii").pack

#: How a row begins: eleven fields, the first of them an id.
_ROW = struct.pack(">i", 11) + _field_head(_UUID, 16)
_UUID_HEAD = _field_head(_UUID, 16)
#: The heads of texts, by how many bytes they have; the longest that a request may send has 256 characters.
_TEXT_HEADS = [_field_head(_TEXT, length) for length in range(4 * 256 + 1)]
_JSONB_HEAD = struct.pack(">I", _JSONB)
_JSONB_VERSION = b"\x01"
_NO_UUID, _NO_TEXT, _NO_TIME = (_field_head(oid, -1) for oid in (_UUID, _TEXT, _TIMESTAMPTZ))
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_DAY_SECONDS, _MICROSECONDS = 86_400, 1_000_000

_LIST_TYPE = "SELECT t.oid, t.typarray FROM pg_type t WHERE t.oid = 'boost_new_event'::regtype"
#: What the row's type is called by the server of each connection that takes lists of rows as bytes.
_row_types: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """A validated event on its way in. `payload` holds the JSON object's bytes; `occurred_at` may be unknown.

    `original_timestamp` is what the client said where `occurred_at` is not that.
    """

    project_id: UUID
    event_type: str
    payload: bytes
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    message_id: str | None = None
    occurred_at: dt.datetime | None = None
    original_timestamp: dt.datetime | None = None

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory and on the wire."""
        return (
            len(self.payload)
            + len(self.event_type)
            + len(self.user_id or "")
            + len(self.anonymous_id or "")
            + len(self.session_id or "")
            + len(self.message_id or "")
            + 256
        )


def message_key(project_id: UUID, message_id: str) -> UUID:
    """Return the 16-byte key of a (project, messageId): BLAKE2b over both."""
    return UUID(bytes=_key(project_id.bytes, message_id.encode()))


def _key(project: bytes, message_id: bytes) -> bytes:
    return hashlib.blake2b(project + message_id, digest_size=16).digest()


def rows_of(batch_id: UUID, events: Sequence[NewEvent]) -> tuple[list[bytes], list[bytes | None]]:
    """Write each event of a batch as a row of type `boost_new_event`, its id the batch's and its position.

    Returns:
        The rows, and the 16-byte key of each event's messageId (None where it has none), which its row has as well.

    Raises:
        UnicodeEncodeError: A text holds half of a surrogate pair; none that came as JSON does.
    """
    start = batch_id.bytes[:14]
    rows: list[bytes] = []
    keys: list[bytes | None] = []
    projects: dict[int, tuple[bytes, bytes]] = {}
    types: dict[str, bytes] = {}
    join = b"".join
    for position, event in enumerate(events):
        # Events of a request share one object; to look at it is cheaper than to hash what it says.
        project = projects.get(id(event.project_id))
        if project is None:
            raw = event.project_id.bytes
            project = projects[id(event.project_id)] = (raw, _UUID_HEAD + raw)
        event_type = types.get(event.event_type)
        if event_type is None:
            event_type = types[event.event_type] = _text(event.event_type)
        if (text := event.message_id) is None:
            key, message_id, key_field = None, _NO_TEXT, _NO_UUID
        else:
            encoded = text.encode()
            key = _key(project[0], encoded)
            message_id, key_field = _text_of(encoded), _UUID_HEAD + key
        payload = event.payload
        keys.append(key)
        rows.append(
            join(
                (
                    _ROW,
                    start,
                    position.to_bytes(2, "big"),
                    project[1],
                    event_type,
                    _NO_TEXT if (text := event.user_id) is None else _text(text),
                    _NO_TEXT if (text := event.anonymous_id) is None else _text(text),
                    _NO_TEXT if (text := event.session_id) is None else _text(text),
                    message_id,
                    _JSONB_HEAD,
                    (len(payload) + 1).to_bytes(4, "big"),
                    _JSONB_VERSION,
                    payload,
                    _NO_TIME if (time := event.occurred_at) is None else _time(time),
                    _NO_TIME if (time := event.original_timestamp) is None else _time(time),
                    key_field,
                )
            )
        )
    return rows, keys


def _text(text: str) -> bytes:
    return _text_of(text.encode())


def _text_of(encoded: bytes) -> bytes:
    try:
        return _TEXT_HEADS[len(encoded)] + encoded
    except IndexError:
        return _field_head(_TEXT, len(encoded)) + encoded


def _time(time: dt.datetime) -> bytes:
    since = time - _EPOCH
    microseconds = (since.days * _DAY_SECONDS + since.seconds) * _MICROSECONDS + since.microseconds
    return _when(_TIMESTAMPTZ, 8, microseconds)


async def row_list_across_projects(connection: Connection, rows: Sequence[bytes]) -> bytes:
    """Put rows together to one value of type `boost_new_event[]`, as this connection sends it.

    The first time on a connection the server is asked what it calls the type, and the driver told to send what it is
    given: only for this type, and only on this connection.
    """
    own: Any = getattr(connection, "_con", connection)
    row_type = _row_types.get(own)
    if row_type is None:
        found = await connection.fetchrow(_LIST_TYPE)
        assert found is not None
        row_type = found["oid"]
        set_list_codec(own, found["typarray"], "_boost_new_event", _as_it_is, _as_it_is)
        _row_types[own] = row_type
    pieces = [_header(1, 0, row_type, len(rows), 1)]
    for row in rows:
        pieces.append(len(row).to_bytes(4, "big"))
        pieces.append(row)
    return b"".join(pieces)


def _as_it_is(value: bytes) -> bytes:
    return value
