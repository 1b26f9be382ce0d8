"""Keeps the page cache small: what the servers have written is on disk, and need not be in memory as well.

A virtual machine may give memory that it does not use back to its host (free page reporting, balloons), and whenever
it touches a page that it does not have, the host must bring one. Measured on such a machine, writing 8 KiB to a file
took 2.5 µs of processor time until the page cache had grown by five to eight GiB, then 20 µs; with the cache let go
every 700 MiB it stayed at 2.6. A run writes tens of GiB of log, tables and topics, so what was measured late paid for
what was written early, and only Boost's side of a comparison with a server that stores nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def let_go_of_page_cache(folder: Path) -> None:
    """Have everything below a folder written to disk and its clean pages dropped from memory.

    What the servers keep in their own memory (`shared_buffers`) stays. Does nothing where the system cannot.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    os.sync()
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may be gone by now, or no file
                _let_go_of(os.path.join(parent, name))


def _let_go_of(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
