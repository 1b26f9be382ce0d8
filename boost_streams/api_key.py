"""The format of an API key: make, parse, checksum, hash. Pure but for the randomness passed in.

`bst_live_` or `bst_test_`, 30 random base62 characters (178 bits), then 6 base62 characters of the CRC32 of
what stands before them: a mistyped key is told apart from an unknown one without asking the database.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Callable, Sequence
from typing import Literal

Environment = Literal["live", "test"]

#: How many characters of a key are shown in lists.
PREFIX_LENGTH = 13
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_LENGTH = 30
_CHECKSUM_LENGTH = 6
_KEY = re.compile(r"bst_(?:live|test)_[0-9A-Za-z]{30}[0-9A-Za-z]{6}", re.ASCII)
_IMPORTED = re.compile(r"pk_live_[0-9a-f]{64}", re.ASCII)


def make_key(environment: Environment = "live", choose: Callable[[Sequence[str]], str] = secrets.choice) -> str:
    """Make a new key; `choose` picks one character (a test passes its own)."""
    body = f"bst_{environment}_" + "".join(choose(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Tell whether a text can be a key at all: shape and checksum, or the older imported shape."""
    if _KEY.fullmatch(key):
        return _checksum(key[:-_CHECKSUM_LENGTH]) == key[-_CHECKSUM_LENGTH:]
    return _IMPORTED.fullmatch(key) is not None


def hash_key(key: str) -> bytes:
    """Return the SHA-256 of a key (32 bytes): the only form that is stored or cached."""
    return hashlib.sha256(key.encode()).digest()


def prefix_of(key: str) -> str:
    """Return the first 13 characters, which lists may show."""
    return key[:PREFIX_LENGTH]


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        value, remainder = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[remainder])
    return "".join(reversed(digits))
