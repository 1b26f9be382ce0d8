"""What a worker is made of depends on its roles: each is loaded as `faust worker` loads it, and looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from agents.sweeper import CLAIMS_AT_ONCE

_LOOK = """
import json
from boost_streams.worker import worker
from web.fast_path import FastPath

app = worker.app
connection = app.web._runner.connection_factory
print(json.dumps({
    "agents": sorted(app.agents),
    "timers": sorted(task.__name__ for task in app._app_tasks),
    "takes events": "/events" in {route.resource.canonical for route in app.http.router.routes()},
    "fast path": isinstance(getattr(connection, "__self__", None), FastPath),
    "plain connections": getattr(connection, "__name__", ""),
    "commits in halves": worker.intake._wave._takes_in_only,
    "a commit beside another from": worker.intake._wave.beside_from,
    "claims at once": worker.sweeper._claims_at_once,
}))
"""
_AGENTS = [f"agents.{name}" for name in ("aggregator", "default", "dispatcher", "payment", "tracking", "user")]
_TIMERS = ["sweep_stuck", "sweep_unpublished"]


def _look(roles: str) -> dict[str, Any]:
    environment = {**os.environ, "BOOST_ROLES": roles, "NODE_ENV": "test"}
    done = subprocess.run([sys.executable, "-c", _LOOK], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    looked: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return looked


@pytest.mark.parametrize("roles", ["web", "agents", "sweeper", "agents,sweeper", "web,sweeper", "web,agents,sweeper"])
def test_roles_decide_what_a_worker_does_and_how(roles: str) -> None:
    web, agents, sweeper = ("web" in roles), ("agents" in roles), ("sweeper" in roles)
    assert _look(roles) == {
        "agents": _AGENTS if agents else [],
        "timers": _TIMERS if sweeper else [],
        "takes events": web,
        "fast path": web,
        "plain connections": "connection" if web else "HttpConnection",
        # Each commit is a message, which costs whoever also settles (docs/adr/0010).
        "commits in halves": not agents,
        "a commit beside another from": 500 if agents else 200,
        # Where requests are answered, what catches up leaves room for them.
        "claims at once": 1 if web else CLAIMS_AT_ONCE,
    }
