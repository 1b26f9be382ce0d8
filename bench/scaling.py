"""Writes `docs/scaling.md`: what a rate of events takes, reckoned from the rows `parts`, `batch` and `wal`.

The text is `scaling.md.template`, in which `{single.http_us}` stands for a figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from bench.results import ROOT, Results, Row

DOCUMENT = ROOT / "docs" / "scaling.md"
_TEMPLATE = Path(__file__).with_name("scaling.md.template")
_FIELD = re.compile(r"\{([a-z0-9_.]+)\}")
_PARTS = {
    "single": "parts.single",
    "single_ids": "parts.single.ids",
    "batch": "parts.batch",
    "batch_ids": "parts.batch.ids",
}
_NEEDED = (*_PARTS.values(), "batch", "batch.ids", "wal", "wal.ids")

_RATES = {"ten": 10_000, "hundred": 100_000, "thousand": 1_000_000}
#: A worker's event loop may be busy for so much of its time, a server's cores for so much of theirs.
_LOOP_SHARE = 0.7
_SERVER_SHARE = 0.5
_CORES_OF_A_SERVER = 8
_REPLICAS = 3
_TOPIC_DAYS = 3
_LEAST_PARTITIONS = 8
_LEAST_BROKERS = 3
_DAY_SECONDS = 86_400
_TIMES = {1: "as many", 2: "two", 3: "three", 4: "four", 5: "five"}
#: Of an index over random keys: keys in a page, bytes of a page that is written out, bytes of WAL of a key itself.
#: Measured on PostgreSQL 15 (pages are 69 % full, as of any B-tree that grows at random places).
_KEYS_PER_PAGE = 205
_PAGE_IMAGE_BYTES = 5_700
_KEY_BYTES = 230
#: What a key takes on disk: its row (24 bytes of header, two of 16, 4 of its page), and its entry, so many in a page.
_KEY_ROW_BYTES = 60
_STORED_KEY_BYTES = _KEY_ROW_BYTES + 8192 / _KEYS_PER_PAGE
#: Keys are remembered in two generations of `IDEMPOTENCY_DAYS` (by default so many days) each.
_KEY_DAYS = 2 * 7


def write_scaling(results: Results, document: Path = DOCUMENT) -> bool:
    """Write the document; False where a row that it needs was never measured."""
    text = as_markdown(results)
    if text is not None:
        document.write_text(text)
    return text is not None


def as_markdown(results: Results) -> str | None:
    """Return the document, or None where a row that it needs was never measured."""
    rows = {row.id: row for row in results.rows}
    if any(name not in rows for name in _NEEDED):
        return None
    values = _values(rows)
    return _FIELD.sub(lambda found: values[found[1]], _TEMPLATE.read_text())


def wal_of_a_key(days: float, checkpoint_minutes: float) -> float:
    """Return the bytes of WAL that a messageId's key costs at the end of a generation of so many days, at any rate."""
    per_checkpoint = 60 * checkpoint_minutes
    pages = days * _DAY_SECONDS / _KEYS_PER_PAGE
    images = pages * (1 - math.exp(-per_checkpoint / pages)) / per_checkpoint
    return _KEY_BYTES + images * _PAGE_IMAGE_BYTES


def _values(rows: Mapping[str, Row]) -> dict[str, str]:
    parts = {name: _medians(rows[row_id]) for name, row_id in _PARTS.items()}
    single, batch = parts["single_ids"], parts["batch_ids"]  # as SDKs send them
    web, web_ids = _medians(rows["batch"]), _medians(rows["batch.ids"])
    wal = {name: _medians(rows[name])["boost"] for name in ("wal", "wal.ids")}
    stored = batch["heap_bytes"] + batch["index_bytes"]
    measured = rows["parts.batch.ids"].measured
    values = {f"{part}.{name}": _figure(value) for part, costs in parts.items() for name, value in costs.items()}
    for name, rate in _RATES.items():
        values |= {f"{name}.{key}": text for key, text in _what_it_takes(rate, batch, stored).items()}
    for days in (1, 2, 7):
        values |= {f"keys.{days}.{minutes}": f"{wal_of_a_key(days, minutes):,.0f}" for minutes in (15, 60)}
    return values | {
        "commit": measured.commit[:12] if measured else "unknown",
        "stored": _figure(stored),
        "ids_wal": _rounded(wal["wal.ids"] - wal["wal"]),
        "ids_heap": _rounded(web_ids["heap_bytes"] - web["heap_bytes"]),
        "key_bytes": f"{_STORED_KEY_BYTES:.0f}",
        "ids_postgres": _figure(web_ids["postgres_us"] - web["postgres_us"]),
        "times": _TIMES[min(5, round(single["boost"] / batch["boost"]))],
        "web": f"{web_ids['worker_us']:.0f}",
        "agents": f"{batch['boost'] - web_ids['worker_us']:.0f}",
        "of_eight_cores": _rounded(_CORES_OF_A_SERVER * _SERVER_SHARE / batch["postgres_us"] * 1e6),
    }


def _what_it_takes(rate: int, batch: Mapping[str, float], stored: float) -> dict[str, str]:
    """Return what so many events a second take, at these costs."""
    worker_cores = rate * batch["boost"] / 1e6
    processes = math.ceil(worker_cores / _LOOP_SHARE)
    postgres_cores = rate * batch["postgres_us"] / 1e6
    broker_cores = rate * batch["kafka_us"] * _REPLICAS / 1e6
    topic_bytes = rate * batch["topic_bytes"] * _REPLICAS * _TOPIC_DAYS * _DAY_SECONDS
    return {
        "worker_cores": _figure(worker_cores),
        "processes": str(processes),
        "partitions": str(max(_LEAST_PARTITIONS, 2 ** math.ceil(math.log2(1.5 * processes)))),
        "postgres_cores": _figure(postgres_cores),
        "postgres_to_have": str(math.ceil(postgres_cores / _SERVER_SHARE)),
        "wal_mb": _figure(rate * batch["wal_bytes"] / 1e6),
        "wal_tb": f"{rate * batch['wal_bytes'] * _DAY_SECONDS / 1e12:.2f}",
        "table_tb": f"{rate * stored * _DAY_SECONDS / 1e12:.2f}",
        "keys_tb": f"{rate * _STORED_KEY_BYTES * _KEY_DAYS * _DAY_SECONDS / 1e12:.2f}",
        "broker_cores": _figure(broker_cores),
        "brokers": str(max(_LEAST_BROKERS, math.ceil(broker_cores / _SERVER_SHARE / _CORES_OF_A_SERVER))),
        "topics_tb": f"{topic_bytes / 1e12:.2f}",
    }


def _medians(row: Row) -> dict[str, float]:
    names = {name for one in row.rounds for name in one}
    return {name: spread.median for name in names if (spread := row.spread(name)) is not None}


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def _rounded(value: float) -> str:
    """Return a number to two digits."""
    if value <= 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    return f"{round(value, digits):,.0f}"
