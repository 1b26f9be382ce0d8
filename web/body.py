"""Reads a request's body, within a time: a slow or silent client holds nothing for ever."""

from __future__ import annotations

import asyncio

from aiohttp import web

from boost_streams.errors import MalformedJson, TooLarge

#: How long a body may take to arrive (seconds).
BODY_SECONDS = 10.0


async def read_bytes(request: web.Request, most: int | None = None) -> bytes:
    """Return the whole body, decompressed; `most` bounds it (bytes) below what the application allows.

    Raises:
        MalformedJson: It did not arrive in time.
        TooLarge: It has more than `most` bytes.
        web.HTTPRequestEntityTooLarge: It is over MAX_BODY_BYTES.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await (request.read() if most is None else _read_at_most(request, most))
    except TimeoutError:
        raise MalformedJson(f"the body did not arrive within {BODY_SECONDS:g} s; send it again") from None


async def _read_at_most(request: web.Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > most:
            raise TooLarge(f"the body may have {most} bytes")
    return bytes(body)
