"""A wall clock that a test can step for one process: libfaketime, preloaded (the Debian package `faketime`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")


def library() -> Path | None:
    """Return where the library is, if it is there."""
    return next((found for pattern in _LIBRARIES for found in sorted(Path("/").glob(pattern.lstrip("/")))), None)


class SteppedClock:
    """The wall clock of processes that run in `environment`; monotonic clocks go on as ever."""

    def __init__(self, file: Path) -> None:
        found = library()
        if found is None:
            if os.environ.get("BOOST_TEST_ALL") == "1":
                raise RuntimeError("libfaketime is missing: apt-get install faketime")
            pytest.skip("there is no libfaketime on this machine (apt-get install faketime)")
        self._file = file
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """Set the clock to so many seconds ahead of the machine's."""
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(f"{seconds:+d}\n")
        unfinished.rename(self._file)
