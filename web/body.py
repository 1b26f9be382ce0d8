"""Reads a request's body within a time, a size and a budget of memory: a slow or silent client holds nothing for long.

aiohttp is told to leave bodies encoded (`boost_streams/app.py`), so that what comes out of them is bounded here.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from boost_streams.errors import MalformedJson, TooLarge
from db.deadline import not_counting
from web.byte_budget import Lease, overloaded
from web.content_codings import GZIP_MAGIC, decode, read_codings

#: How long a body may take to arrive (seconds).
BODY_SECONDS = 10.0


async def read_bytes(request: web.Request, most: int, lease: Lease) -> bytes:
    """Return the whole body, decoded. `lease` holds its bytes until it is released.

    Raises:
        MalformedJson: It did not arrive in time, or its encoding is broken.
        TooLarge: It has more than `most` bytes, on the wire or decoded.
        UnsupportedMediaType: Its encoding is not one that is read.
        Overloaded: There is no memory left for it.
    """
    codings = read_codings(encoding) if (encoding := request.headers.get("Content-Encoding")) else ()
    if request.content.is_eof():
        body = request.content.read_nowait()
        if len(body) > most:
            raise TooLarge(f"the body may have {most} bytes")
        lease.grow(len(body))
    else:
        body = await _arriving(request, most, lease)
    if codings or body.startswith(GZIP_MAGIC):
        body = decode(body, codings, most, lease)
    return body


async def _arriving(request: web.Request, most: int, lease: Lease) -> bytes:
    parts, size = [], 0
    began = time.monotonic()
    if (request.content_length or 0) > most:
        raise TooLarge(f"the body may have {most} bytes, this one has {request.content_length}")
    try:
        async with asyncio.timeout(BODY_SECONDS) as deadline:
            lease.begin(deadline)
            while part := await request.content.readany():
                size += len(part)
                if size > most:
                    raise TooLarge(f"the body may have {most} bytes")
                lease.grow(len(part))
                parts.append(part)
    except TimeoutError:
        if lease.was_cut_off:
            raise overloaded() from None
        raise MalformedJson(f"the body did not arrive within {BODY_SECONDS:g} s; send it again") from None
    finally:
        lease.end()
    not_counting(time.monotonic() - began)
    return b"".join(parts)
