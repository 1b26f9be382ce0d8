"""What a handler's `prepare` may ask: the servers that a worker has at hand."""

from __future__ import annotations

from dataclasses import dataclass

from boost_streams.settings import Settings
from db.pool import Database
from db.redis import Redis


@dataclass(frozen=True, slots=True)
class HandlerServices:
    """The second argument of `prepare`. Whatever is asked has `PREPARE_SECONDS` in all."""

    settings: Settings
    database: Database
    redis: Redis
