"""The request handler of the parse-only servers: reads a body as `POST /events` does, and answers as it would."""

from __future__ import annotations

import msgspec
from aiohttp import web

from web.formats.boost_json import EventBody

_decoder = msgspec.json.Decoder(EventBody)
_encoder = msgspec.json.Encoder()
#: An id of the usual length: nothing is stored, so nothing has one.
_ID = "019a0000-0000-7000-8000-000000000000"


async def parse_and_answer(request: web.Request) -> web.Response:
    """Decode an event and answer 202 with an id."""
    _decoder.decode(await request.read())
    body = _encoder.encode({"id": _ID, "status": "pending"})
    return web.Response(body=body, status=202, content_type="application/json", charset="utf-8")


async def alive(_: web.Request) -> web.Response:
    """Answer that the server is up."""
    return web.Response(text="ok")
