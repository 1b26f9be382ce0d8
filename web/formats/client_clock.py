"""When an event happened, told by a client's clock that may be wrong."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from boost_streams.errors import Invalid

EARLIEST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(2101, 1, 1, tzinfo=dt.UTC)
#: How far ahead of its receipt an event may lie; beyond it, it counts as of its receipt.
MOST_AHEAD = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class ClientClock:
    """The clock of one request: when it was received by ours, and how far the client's is behind it."""

    received_at: dt.datetime
    behind: dt.timedelta = dt.timedelta()

    @classmethod
    def of_request(cls, received_at: dt.datetime, sent_at: str | None) -> ClientClock:
        """Compare the clocks: the client's showed `sent_at` when ours showed `received_at`.

        Raises:
            Invalid: `sent_at` cannot be read.
        """
        if sent_at is None:
            return cls(received_at)
        return cls(received_at, received_at - read_timestamp(sent_at, "sentAt"))

    def occurred_at(self, timestamp: str) -> tuple[dt.datetime | None, dt.datetime | None]:
        """Return when an event happened; or None, for when it is received, and what the client said instead.

        Raises:
            Invalid: The timestamp cannot be read.
        """
        said = read_timestamp(timestamp)
        corrected = said + self.behind
        if corrected - self.received_at > MOST_AHEAD:
            return None, said
        return corrected, None


def read_timestamp(value: str, field: str = "timestamp") -> dt.datetime:
    """Read an ISO 8601 time; without a zone it is UTC.

    Raises:
        Invalid: Not ISO 8601, or outside the years 2000 to 2100.
    """
    try:
        when = dt.datetime.fromisoformat(value.strip())
        when = when.replace(tzinfo=dt.UTC) if when.tzinfo is None else when.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise Invalid.field(field, "must be ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if not EARLIEST <= when < LATEST:
        raise Invalid.field(field, "must lie in the years 2000 to 2100")
    return when
