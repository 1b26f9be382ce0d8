"""Cursors of pages that are ordered by time and then id: opaque to clients, checked when they come back."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from typing import Any
from uuid import UUID

from boost_streams.errors import Invalid

_VERSION = b"\x02"
_ID_BYTES = 16
_TIME_BYTES = 8
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def write_cursor(row_id: UUID, *times: dt.datetime) -> str:
    """Write the place after a row: its id, and its time with whatever else the next page must know."""
    data = b"".join(((time - _EPOCH) // _MICROSECOND).to_bytes(_TIME_BYTES, "big", signed=True) for time in times)
    return base64.urlsafe_b64encode(_VERSION + data + row_id.bytes).decode().rstrip("=")


def read_cursor(cursor: str, *, times: int) -> tuple[Any, ...]:
    """Return the `times` times (UTC) that a cursor holds, and the id.

    Raises:
        Invalid: It is not a cursor of ours; names the field `cursor`.
    """
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if data[:1] != _VERSION or len(data) != 1 + times * _TIME_BYTES + _ID_BYTES:
            raise ValueError
        numbers = (data[1 + n * _TIME_BYTES : 1 + (n + 1) * _TIME_BYTES] for n in range(times))
        found = [_EPOCH + int.from_bytes(number, "big", signed=True) * _MICROSECOND for number in numbers]
    except (ValueError, OverflowError, binascii.Error):
        raise Invalid.field("cursor", "must be the nextCursor of an earlier page, unchanged") from None
    return *found, UUID(bytes=data[-_ID_BYTES:])
