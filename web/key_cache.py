"""What one process remembers of API keys, by hash: valid ones, unknown ones, revoked ones. Bounded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from db.api_keys import FoundKey

V = TypeVar("V")

#: How many valid, and how many unknown keys are remembered.
MOST_KEYS = 10_000
#: How many revocations are remembered.
MOST_REVOCATIONS = 100_000
#: How long an unknown key is not asked for again (seconds).
UNKNOWN_SECONDS = 3.0


class ExpiringMap(Generic[V]):
    """A map that forgets what is too old and, when it is full, what was not used for longest."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> V | None:
        """Return the value of a key, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if self._clock() >= expires:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: bytes, value: V, seconds: float) -> None:
        """Remember a value for a time (seconds); not at all when that is not positive."""
        if seconds <= 0:
            return
        self._entries[key] = (self._clock() + seconds, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, key: bytes) -> None:
        """Forget one key."""
        self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


class KeyCache:
    """Keys by hash. A revoked key stays out for `tombstone_seconds`, whoever tries to put it in again."""

    def __init__(self, *, tombstone_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._tombstone_seconds = tombstone_seconds
        self._valid: ExpiringMap[FoundKey] = ExpiringMap(MOST_KEYS, clock)
        self._unknown: ExpiringMap[bool] = ExpiringMap(MOST_KEYS, clock)
        self._revoked: ExpiringMap[bool] = ExpiringMap(MOST_REVOCATIONS, clock)

    def valid(self, key_hash: bytes) -> FoundKey | None:
        """Return a key that was put in and has neither expired nor been revoked since."""
        return self._valid.get(key_hash)

    def refused(self, key_hash: bytes) -> bool:
        """Tell whether a key was revoked, or found to be unknown a moment ago."""
        return self._revoked.get(key_hash) is not None or self._unknown.get(key_hash) is not None

    def revoked(self, key_hash: bytes) -> bool:
        """Tell whether this process heard that a key was revoked."""
        return self._revoked.get(key_hash) is not None

    def put(self, key_hash: bytes, found: FoundKey, seconds: float) -> None:
        """Remember a valid key for a time, unless it was revoked meanwhile."""
        if not self.revoked(key_hash):
            self._valid.put(key_hash, found, seconds)

    def put_unknown(self, key_hash: bytes) -> None:
        """Remember for a few seconds that there is no such key."""
        self._unknown.put(key_hash, True, UNKNOWN_SECONDS)

    def revoke(self, key_hash: bytes) -> None:
        """Forget a key and keep it out."""
        self._revoked.put(key_hash, True, self._tombstone_seconds)
        self._valid.drop(key_hash)

    def drop_valid(self) -> None:
        """Forget every valid key; what is known to be revoked stays known."""
        self._valid.clear()
