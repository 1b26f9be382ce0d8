"""Heads of requests that were read before: what the same bytes say need not be read out of them again.

A client sends the same head with each of its events, but for the length of the body. aiohttp's parser reads it once;
from then on its SHA-256, without the digits of the length, leads to its path and the hash of the key that it carries.
This is no second parser: bytes that differ in anything else are unknown, and go to aiohttp's (docs/adr/0030).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from aiohttp.http_parser import RawRequestMessage
from multidict import istr

#: How many heads are remembered: of each, two hashes and a path.
MOST_HEADS = 1024
_END = b"\r\n\r\n"
#: How clients write what stands before the length; of those who write it otherwise nothing is remembered.
_BEFORE_LENGTH = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_CONTENT_LENGTH = istr("Content-Length")
#: A parser passes over line ends before a request: its head ends later than it seems to.
_LINE_ENDS = (b"\r", b"\n")
#: No body is as long as a number with more digits says; Python refuses to read one of thousands.
_MOST_DIGITS = 18


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
    if end < 0 or data[:1] in _LINE_ENDS or message.chunked or message.upgrade or len(lengths) != 1:
        return None
    if data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end):
        return None
    if not lengths[0].isdecimal() or len(lengths[0]) > _MOST_DIGITS:
        return None
    return end + len(_END) + int(lengths[0])


class KnownHead(NamedTuple):
    """What a head says: a path that is taken, and the hash of a key (32 bytes)."""

    path: str
    key_hash: bytes


class KnownHeads:
    """Heads by their hash; when full, what was read first is forgotten."""

    def __init__(self, most: int = MOST_HEADS) -> None:
        self._most = most
        self._heads: dict[bytes, KnownHead] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, head: bytes) -> KnownHead | None:
        """Return what a head says, or None if it is unknown."""
        return self._heads.get(hashlib.sha256(head).digest())

    def remember(self, head: bytes, says: KnownHead) -> None:
        """Remember a head that was split off a request that its parser read from there on, and no further."""
        known_as = hashlib.sha256(head).digest()
        if known_as not in self._heads and len(self._heads) >= self._most:
            del self._heads[next(iter(self._heads))]
        self._heads[known_as] = says
