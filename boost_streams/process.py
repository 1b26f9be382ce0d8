"""What a worker sets for its process, and how the process ends."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import NoReturn

#: From SIGTERM: the process must end within so long (seconds).
WATCHDOG_SECONDS = 9.0
#: The exit code of a worker that the watchdog had to end.
EXIT_WATCHDOG = 70
#: After how long a thread that waits for the interpreter gets it (seconds; Python's own is five times that): what was
#: fetched passes between the consumer's thread and a busy event loop twice on each hop (docs/adr/0012).
_SWITCH_SECONDS = 0.001


def tune() -> None:
    """Have threads wait less for each other, and cycles looked for seldom."""
    _collect_seldom()
    sys.setswitchinterval(_SWITCH_SECONDS)


def _collect_seldom() -> None:
    """Have Python look for reference cycles seldom, and never among what was loaded at the start.

    By default it looks after every 700 new objects, fewer than requests in flight hold; that took a tenth of the time
    of a request. Boost's own objects are freed by their reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def end_at_once(code: int) -> NoReturn:
    """End the process with this exit code, without what Python and mode would still do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_watchdog() -> None:
    """End the process if stopping takes too long; what is not acknowledged comes again."""

    def end() -> None:
        time.sleep(WATCHDOG_SECONDS)
        sys.stderr.write("boost: stopping took too long; leaving without acknowledging\n")
        os._exit(EXIT_WATCHDOG)

    threading.Thread(target=end, name="watchdog", daemon=True).start()
