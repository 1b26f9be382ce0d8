"""Heads of requests that were read before: what the same bytes say need not be read out of them again.

A client sends the same head with each of its events, but for the length of the body. aiohttp's parser reads it once;
from then on its SHA-256, without the digits of the length, leads to the hash of the key that it carries. This is no
second parser: bytes that differ in anything else are unknown, and go to aiohttp's (docs/adr/0030).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage
from multidict import istr

#: How many heads are remembered: of each, two hashes.
MOST_HEADS = 1024
_END = b"\r\n\r\n"
#: How clients write what stands before the length; of those who write it otherwise nothing is remembered.
_BEFORE_LENGTH = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_CONTENT_LENGTH = istr("Content-Length")


class Split(NamedTuple):
    """A request in two: its head without the digits of the body's length, and its body."""

    head: bytes
    body: bytes


def split(data: bytes) -> Split | None:
    """Split what is a whole request, if its head ends where it seems to; None when the length says otherwise."""
    end = data.find(_END)
    body = data[end + len(_END) :]
    digits = b"%d" % len(body)
    for before in _BEFORE_LENGTH if end >= 0 else ():
        at = data.find(before + digits + b"\r\n", 0, end + 2)
        if at >= 0:
            at += len(before)
            return Split(data[:at] + data[at + len(digits) : end], body)
    return None


def bytes_of(data: bytes, message: RawRequestMessage) -> int | None:
    """Return how many bytes the request has with which `data` begins and that was read as `message`.

    None when only the parser can tell: its body comes in chunks, say, or its lines end in an unusual way.
    """
    end = data.find(_END)
    lengths = message.headers.getall(_CONTENT_LENGTH, ["0"])
    unusual = end < 0 or message.chunked or message.upgrade or len(lengths) != 1 or not lengths[0].isdecimal()
    if unusual or data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end):
        return None
    return end + len(_END) + int(lengths[0])


class KnownHeads:
    """Heads by their hash, each with the hash of its key; when full, what was read first is forgotten."""

    def __init__(self, most: int = MOST_HEADS) -> None:
        self._most = most
        self._key_hashes: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._key_hashes)

    def key_hash(self, head: bytes) -> bytes | None:
        """Return the hash of the key that a head carries (32 bytes), or None if it is unknown."""
        return self._key_hashes.get(hashlib.sha256(head).digest())

    def remember(self, head: bytes, key_hash: bytes) -> None:
        """Remember a head that was split off a request that its parser read from there on, and no further."""
        if len(self._key_hashes) >= self._most:
            del self._key_hashes[next(iter(self._key_hashes))]
        self._key_hashes[hashlib.sha256(head).digest()] = key_hash
