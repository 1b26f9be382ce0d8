"""What the figures were measured on: processor, memory, kernel, versions, git commit."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from boost_streams.embedded.kafka_jars import kafka_version

ROOT = Path(__file__).parent.parent
_PACKAGES = ("faust-streaming", "mode-streaming", "aiohttp", "aiokafka", "asyncpg", "msgspec", "uvloop", "uuid-utils")


def describe(postgres_version: str, postgres_settings: dict[str, str]) -> dict[str, Any]:
    """Return everything that somebody who repeats the run wants to compare."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count() or 0,
            "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "Python": platform.python_version(),
            "PostgreSQL": postgres_version,
            "Apache Kafka": kafka_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "postgresql": postgres_settings,
    }


def git_commit() -> str:
    """Return the commit that is checked out, with "+changes" where files differ from it; "unknown" outside git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!bench/results.json")
    return f"{commit}+changes" if changed else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
