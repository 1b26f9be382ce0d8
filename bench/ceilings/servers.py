"""Starts and stops the parse-only servers."""

from __future__ import annotations

import contextlib
import http.client
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.deployment import worker_environment
from bench.site import Site
from boost_streams.embedded.process import ManagedProcess, free_port

_ROOT = Path(__file__).parent.parent.parent
_PROGRAMS = {
    "faust": ["-m", "faust", "-A", "bench.ceilings.parse_faust", "worker", "-l", "info"],
    "aiohttp": ["-m", "bench.ceilings.parse_aiohttp"],
}
#: What the ceilings are called in tables.
LABELS = {"faust": "Faust, parse only", "aiohttp": "aiohttp, parse only"}
_READY_SECONDS = 40.0
_STOP_SECONDS = 5.0


@contextlib.contextmanager
def parse_only_server(site: Site, kind: str) -> Iterator[str]:
    """Run a parse-only server (`faust` or `aiohttp`) and lend its address."""
    port = free_port()
    folder = site.folder / f"parse-{kind}"
    folder.mkdir(exist_ok=True)
    environment = worker_environment(site, "parse.") | {"PORT": str(port), "BOOST_DATA_DIR": str(folder)}
    log = site.folder / "logs" / f"parse-{kind}.log"
    process = ManagedProcess(f"parse-{kind}", [sys.executable, *_PROGRAMS[kind]], log, env=environment, cwd=_ROOT)
    process.start()
    try:
        process.wait_ready(lambda: _is_alive(port), _READY_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate(_STOP_SECONDS)


def _is_alive(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
