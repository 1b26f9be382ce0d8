"""What comes out of an encoded body is what went in, within its limit of size and memory; else it is refused."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from backports import zstd

from boost_streams.errors import MalformedJson, Overloaded, TooLarge, UnsupportedMediaType
from web.byte_budget import ByteBudget, Lease
from web.content_codings import MOST_MEMBERS, PIECE_BYTES, decode, read_codings

MOST = 1 << 20
TEXT = b'{"eventType": "x", "payload": {"text": "' + random.Random(1).randbytes(50_000).hex().encode() + b'"}}'


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return made.compress(data) + made.flush()


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", lambda data: bytes(brotli.compress(data, quality=5))),
    ("zstd", zstd.compress),
]


def lease_for(body: bytes, most: int = 64 * MOST) -> Lease:
    lease = ByteBudget(most).lease()
    lease.grow(len(body))
    return lease


def decoded(body: bytes, *codings: str, most: int = MOST) -> bytes:
    return decode(body, codings, most, lease_for(body))


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
@pytest.mark.parametrize("text", [b"", b"{}", TEXT, TEXT * 10])
def test_each_coding_is_taken_off(coding: str, encode: Callable[[bytes], bytes], text: bytes) -> None:
    assert decoded(encode(text), coding, most=2 * MOST) == text


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_lease_holds_what_came_out(coding: str, encode: Callable[[bytes], bytes]) -> None:
    budget = ByteBudget(64 * MOST)
    lease, body = budget.lease(), encode(TEXT)
    lease.grow(len(body))
    assert decode(body, (coding,), MOST, lease) == TEXT
    assert budget.used == lease.held == len(TEXT)


def test_codings_within_each_other_are_taken_off_from_the_outside() -> None:
    assert decoded(zstd.compress(brotli.compress(gzip.compress(TEXT))), "gzip", "br", "zstd") == TEXT


def test_members_and_frames_may_follow_each_other() -> None:
    assert decoded(gzip.compress(b"[") + gzip.compress(b"]") + bytes(8), "gzip") == b"[]"
    assert decoded(zstd.compress(b"[") + zstd.compress(b"]"), "zstd") == b"[]"


@pytest.mark.parametrize(("coding", "empty"), [("gzip", gzip.compress(b"")), ("zstd", zstd.compress(b""))])
def test_members_without_end_are_refused(coding: str, empty: bytes) -> None:
    assert decoded(empty * MOST_MEMBERS, coding) == b""
    with pytest.raises(MalformedJson):
        decoded(empty * (MOST_MEMBERS + 1), coding)


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_what_is_cut_off_is_refused(coding: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(TEXT)
    for length in (1, 3, len(body) // 2, len(body) - 1):
        with pytest.raises(MalformedJson):
            decoded(body[:length], coding)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("body", [b"not encoded", b"\xff" * 100, bytes(100)])
def test_what_is_something_else_is_refused(coding: str, body: bytes) -> None:
    with pytest.raises(MalformedJson):
        decoded(body, coding)


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_what_follows_an_encoded_body_is_refused(coding: str, encode: Callable[[bytes], bytes]) -> None:
    with pytest.raises(MalformedJson):
        decoded(encode(TEXT) + b"more", coding)


@pytest.mark.parametrize("body", [b'{"a": 1}', b" \n[]"])
def test_json_that_somebody_decoded_on_the_way_is_taken(body: bytes) -> None:
    assert decoded(body, "gzip") == body


def test_gzip_is_known_by_its_first_bytes() -> None:
    assert decoded(gzip.compress(TEXT)) == TEXT


BOMB = bytes(32 * MOST)
BOMBS = [(coding, encode(BOMB)) for coding, encode in ENCODERS] + [
    ("gzip, gzip", gzip.compress(gzip.compress(BOMB))),
    ("br, zstd", zstd.compress(brotli.compress(BOMB, quality=5))),
]


@pytest.mark.parametrize(("codings", "bomb"), BOMBS)
def test_a_bomb_costs_its_limit_and_no_more(codings: str, bomb: bytes) -> None:
    budget = ByteBudget(1 << 30)
    lease = budget.lease()
    lease.grow(len(bomb))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(bomb, read_codings(codings), MOST, lease)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(bomb) < MOST
    assert budget.used <= 2 * MOST + PIECE_BYTES
    assert peak < 3 * MOST


def test_a_window_beyond_what_a_content_encoding_may_have_is_refused() -> None:
    """The frame's window would be allocated before anything is known of what is in it."""
    options = {zstd.CompressionParameter.window_log: 27}
    made = zstd.ZstdCompressor(options=options)
    with pytest.raises(MalformedJson):
        decoded(made.compress(b"{}") + made.flush(), "zstd")


def test_what_comes_out_must_fit_into_the_budget() -> None:
    budget = ByteBudget(100_000)
    budget.take(90_000)
    lease, body = budget.lease(), gzip.compress(bytes(50_000))
    lease.grow(len(body))
    with pytest.raises(Overloaded):
        decode(body, ("gzip",), MOST, lease)


@pytest.mark.parametrize(
    ("header", "codings"),
    [("", ()), ("identity", ()), ("GZIP", ("gzip",)), (" gzip ,, br", ("gzip", "br")), ("identity, zstd", ("zstd",))],
)
def test_a_header_is_read(header: str, codings: tuple[str, ...]) -> None:
    assert read_codings(header) == codings


@pytest.mark.parametrize("header", ["compress", "gzip, lzma", "*", "gzip;q=1", "gzip," * 4])
def test_a_coding_that_is_not_read_is_refused(header: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        read_codings(header)
