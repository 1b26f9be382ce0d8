"""Decodes bodies: gzip, deflate, br and zstd, also one within another, never to more than is allowed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping

import brotli
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from boost_streams.errors import MalformedJson, TooLarge, UnsupportedMediaType
from web.byte_budget import Lease

#: How gzip begins (RFC 1952, section 2.3.1). No JSON does, so it is believed without a header as well.
GZIP_MAGIC = b"\x1f\x8b"
#: How many codings one body may have.
MOST_CODINGS = 3
#: How many members (gzip) or frames (zstd) may follow each other; each costs time even if it holds nothing.
MOST_MEMBERS = 100
#: About how much is decoded at a time (bytes; brotli gives up to half as much more): a bomb is noticed when it is over
#: its limit by this.
PIECE_BYTES = 64 * 1024
#: The largest window of zstd, as a power of two: what RFC 9659 allows in a Content-Encoding, 8 MiB.
_ZSTD_OPTIONS: Mapping[int, int] = {DecompressionParameter.window_log_max: 23}

_BROKEN = (zlib.error, brotli.error, ZstdError, EOFError)


def read_codings(header: str) -> tuple[str, ...]:
    """Read a Content-Encoding: its codings in the order in which they were applied.

    Raises:
        UnsupportedMediaType: One of them is not known, or there are too many.
    """
    names = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if unknown := [name for name in names if name not in _DECODERS]:
        raise UnsupportedMediaType(f"Content-Encoding: send gzip, deflate, br or zstd, not {unknown[0]}")
    if len(names) > MOST_CODINGS:
        raise UnsupportedMediaType(f"Content-Encoding: at most {MOST_CODINGS} codings are read")
    return tuple(names)


def decode(body: bytes, codings: tuple[str, ...], most: int, lease: Lease) -> bytes:
    """Take the codings off a body, of which `lease` holds the size; then it holds the size of what is returned.

    Raises:
        MalformedJson: It is not what the codings say, or not all of it is there.
        TooLarge: More than `most` bytes come out of it.
        Overloaded: There is no memory left for it.
    """
    for coding in reversed(codings or ("gzip",)):
        if coding in ("gzip", "x-gzip") and body[:2] != GZIP_MAGIC and body.lstrip()[:1] in (b"{", b"["):
            continue  # somebody on the way decoded it and left the header
        pieces, size = [], 0
        try:
            for piece in _DECODERS[coding](body):
                size += len(piece)
                if size > most:
                    raise TooLarge(f"the body may have {most} bytes, decompressed")
                lease.grow(len(piece))
                pieces.append(piece)
        except _BROKEN:
            raise MalformedJson(f"the body cannot be read: its {coding} encoding is broken") from None
        lease.shrink(len(body))
        body = b"".join(pieces)
    return body


def _gunzip(body: bytes) -> Iterator[bytes]:
    for _ in range(MOST_MEMBERS):
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        yield from _inflate_member(member, body)
        body = member.unused_data
        if not body.strip(b"\x00"):
            return
    raise EOFError


def _inflate(body: bytes) -> Iterator[bytes]:
    """Decode what is called deflate: zlib's format (RFC 1950), or the bare stream that some send (RFC 1951)."""
    wrapped = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    member = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    yield from _inflate_member(member, body)
    if member.unused_data:
        raise EOFError


def _inflate_member(member: zlib._Decompress, body: bytes) -> Iterator[bytes]:
    while True:
        piece = member.decompress(body, PIECE_BYTES)
        yield piece
        body = member.unconsumed_tail
        if member.eof:
            return
        if not piece and not body:
            raise EOFError


def _unbrotli(body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    while not decoder.is_finished():
        piece = decoder.process(body, output_buffer_limit=PIECE_BYTES)
        if not piece and not decoder.is_finished():
            raise EOFError
        yield piece
        body = b""


def _unzstd(body: bytes) -> Iterator[bytes]:
    for _ in range(MOST_MEMBERS):
        frame = ZstdDecompressor(options=_ZSTD_OPTIONS)
        yield frame.decompress(body, PIECE_BYTES)
        while not frame.eof:
            if frame.needs_input:
                raise EOFError
            yield frame.decompress(b"", PIECE_BYTES)
        body = frame.unused_data
        if not body:
            return
    raise EOFError


_DECODERS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
