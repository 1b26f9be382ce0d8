"""What is taken for a whole request whose head was read before, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage

from web.known_heads import KnownHead, KnownHeads, Split, bytes_of, split

_LINE = b"POST /events HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        (b"Content-Length: 2\r\n\r\n{}", Split(b"Content-Length: ", b"{}")),
        (b"content-length: 2\r\nA: b\r\n\r\n{}", Split(b"content-length: \r\nA: b", b"{}")),
        (b"A: b\r\nContent-Length: 10\r\n\r\n" + b"x" * 10, Split(b"A: b\r\nContent-Length: ", b"x" * 10)),
        (b"Content-Length: 0\r\n\r\n", Split(b"Content-Length: ", b"")),
        (b"Content-Length: 1\r\n\r\n\r\n\r\n", None),
        (b"Content-Length: 3\r\n\r\n{}", None),
        (b"Content-Length: 1\r\n\r\n{}", None),
        (b"Content-Length: 02\r\n\r\n{}", None),
        (b"Content-Length: 2 \r\n\r\n{}", None),
        (b"Content-Length:2\r\n\r\n{}", None),
        (b"X-Content-Length: 2\r\n\r\n{}", None),
        (b"A: b\r\n\r\n{}", None),
        (b"Content-Length: 2\r\n{}", None),
    ],
)
def test_a_request_is_split_where_its_length_says(data: bytes, parts: Split | None) -> None:
    whole = None if parts is None else Split(_LINE + parts.head, parts.body)
    assert split(_LINE + data) == whole


def test_heads_that_differ_in_more_than_the_length_stay_apart() -> None:
    requests = [
        b"Content-Length: 2\r\nStrength: 4\r\n\r\n{}",
        b"Content-Length: 4\r\nStrength: 4\r\n\r\n{  }",
        b"Content-Length: 4\r\nStrength: 2\r\n\r\n{  }",
        b"Strength: 4\r\nContent-Length: 4\r\n\r\n{  }",
    ]
    heads = [parts.head for data in requests if (parts := split(_LINE + data))]
    assert len(heads) == len(requests)
    assert heads[0] == heads[1]
    assert len(set(heads)) == len(requests) - 1


@pytest.fixture
def parser() -> Iterator[HttpRequestParser]:
    loop = asyncio.new_event_loop()
    yield HttpRequestParser(BaseProtocol(loop), loop, 2**16)
    loop.close()


def read(parser: HttpRequestParser, data: bytes) -> RawRequestMessage:
    (((message, _), *_), _, _) = parser.feed_data(data)
    return message


@pytest.mark.parametrize(
    ("head", "bytes_after"),
    [
        (b"Content-Length: 5\r\n", 5),
        (b"A: b\r\n", 0),
        (b"Transfer-Encoding: chunked\r\n", None),
        (b"Upgrade: websocket\r\nConnection: upgrade\r\n", None),
        (b"Content-Length: " + b"0" * 5000 + b"\r\n", None),
    ],
)
def test_the_parser_and_the_count_agree_on_where_a_request_ends(
    parser: HttpRequestParser, head: bytes, bytes_after: int | None
) -> None:
    data = _LINE + b"Host: a\r\n" + head + b"\r\n"
    expected = None if bytes_after is None else len(data) + bytes_after
    assert bytes_of(data, read(parser, data)) == expected


def test_where_a_line_ends_in_an_unusual_way_only_the_parser_knows(parser: HttpRequestParser) -> None:
    message = read(parser, _LINE + b"Host: a\r\nContent-Length: 0\r\n\r\n")
    for data in (b"Host: a\nContent-Length: 0\r\n\r\n", b"Host: a\r\nContent-Length: 0\n\n", b"Host: a\r\n"):
        assert bytes_of(_LINE + data, message) is None


def test_line_ends_before_a_request_are_the_parsers(parser: HttpRequestParser) -> None:
    data = b"\r\n\r\n" + _LINE + b"Host: a\r\nContent-Length: 5\r\n\r\n"
    assert bytes_of(data, read(parser, data)) is None


def test_what_was_read_first_is_forgotten_first() -> None:
    heads = KnownHeads(most=3)
    for number in range(5):
        heads.remember(b"head %d" % number, KnownHead("/events", b"%d" % number))
    heads.remember(b"head 4", KnownHead("/events", b"4"))
    assert len(heads) == 3
    found = [heads.find(b"head %d" % number) for number in range(5)]
    assert [head and head.key_hash for head in found] == [None, None, b"2", b"3", b"4"]
