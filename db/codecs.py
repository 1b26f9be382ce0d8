"""Values that are written and read here, in PostgreSQL's binary format, where the driver would take longer.

asyncpg looks at each entry of a list twice, and asks an abstract base class each time whether it is a list itself
(docs/adr/0026, 0032). Its public `set_type_codec` takes neither lists nor domains; what it calls does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID

#: What PostgreSQL calls the types; these never change.
_UUID, _UUID_LIST = 2950, 2951
#: Dimensions, whether there are nulls, the type of the entries; then of the only dimension its size and lower bound.
_header = struct.Struct(">iiI")
_dimension = struct.Struct(">ii")
_EMPTY = _header.pack(0, 0, _UUID)
_SIXTEEN, _NULL = struct.pack(">i", 16), struct.pack(">i", -1)


def set_list_codec(
    connection: Any, oid: int, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
) -> None:
    """Have a connection send and read values of one list type as `encode` and `decode` write and read them."""
    settings = connection._protocol.get_settings()
    settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", encode, decode, "binary")


def write_uuid_lists_here(connection: Any) -> None:
    """Have a connection send and read `uuid[]` by the functions below."""
    set_list_codec(connection, _UUID_LIST, "_uuid", encode_uuids, decode_uuids)


def encode_uuids(uuids: Iterable[UUID | None]) -> bytes:
    """Write a list of ids as a value of type `uuid[]`.

    Raises:
        AttributeError: An entry is no UUID.
    """
    entries = [_NULL if one is None else _SIXTEEN + one.int.to_bytes(16, "big") for one in uuids]
    if not entries:
        return _EMPTY
    return b"".join((_header.pack(1, 0, _UUID), _dimension.pack(len(entries), 1), *entries))


def decode_uuids(value: bytes) -> list[UUID | None]:
    """Read a value of type `uuid[]`.

    Raises:
        ValueError: It has more than one dimension.
    """
    dimensions, _, _ = _header.unpack_from(value)
    if dimensions == 0:
        return []
    if dimensions > 1:
        raise ValueError(f"a list of ids has one dimension, not {dimensions}")
    ids: list[UUID | None] = []
    at = _header.size + _dimension.size
    while at < len(value):
        if value[at : at + 4] == _NULL:
            ids.append(None)
            at += 4
        else:
            ids.append(FastUUID(value[at + 4 : at + 20]))
            at += 20
    return ids
