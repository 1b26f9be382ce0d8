"""The warm-up before the first row: servers that were just started are slower than those of a deployment.

PostgreSQL makes the files of its write-ahead log (`Site.make_log_segments`), and the broker compiles its own code while
it works. Measured with single POSTs of 64 connections and a whole worker, in runs of five seconds after three that were
not counted: 44, 38, 28 and 23 µs of the broker's processor per event, then 15 to 26. A deployment's broker has that
behind it.
"""

from __future__ import annotations

from bench.deployment import deployed
from bench.load.paced import settled_throughput
from bench.run import Bench

_SECONDS = 25.0
_CONNECTIONS = 64


def warm_up(bench: Bench) -> None:
    """Have PostgreSQL make the files of its log, and load a worker that takes and settles single events."""
    bench.say("warm-up of PostgreSQL: the files of its write-ahead log")
    bench.site.make_log_segments()
    bench.say(f"warm-up of the broker: {_SECONDS:g} s")
    with deployed(bench.site, "warm_up", "web,agents,sweeper") as worker:
        settled_throughput(worker, bench.single(), connections=_CONNECTIONS, seconds=_SECONDS)
