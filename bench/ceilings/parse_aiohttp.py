"""A plain aiohttp server on uvloop that parses and answers: what aiohttp itself can do.

PORT=… python -m bench.ceilings.parse_aiohttp
"""

from __future__ import annotations

import os

import uvloop
from aiohttp import web

from bench.ceilings.parse_only import alive, parse_and_answer


def main() -> None:
    """Serve on 127.0.0.1 until told to stop."""
    uvloop.install()
    app = web.Application()
    app.router.add_post("/events", parse_and_answer)
    app.router.add_get("/health/live", alive)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=lambda *_: None)


if __name__ == "__main__":
    main()
