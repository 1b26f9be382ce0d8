"""`docs/scaling.md` is reckoned from the results of the bench, and says what they say."""

from __future__ import annotations

import math

import pytest

from bench import scaling
from bench.results import Results, Row, read_results


def row(row_id: str, **values: float) -> Row:
    return Row(row_id, row_id.partition(".")[0], "", "", [values], [], {})


def results(worker_us: float = 30.0) -> Results:
    parts = {
        **dict.fromkeys(
            ("http_us", "commit_us", "produce_us", "read_us", "dispatch_us", "handle_us", "settle_us"), 4.0
        ),
        "postgres_us": 16.0,
        "kafka_us": 4.0,
        "wal_bytes": 700.0,
        "topic_bytes": 50.0,
        "heap_bytes": 900.0,
        "index_bytes": 100.0,
    }
    web = {"worker_us": 10.0, "postgres_us": 8.0, "heap_bytes": 900.0}
    return Results(
        [
            row("parts.single", boost=80.0, **parts),
            row("parts.single.ids", boost=90.0, **parts),
            row("parts.batch", boost=20.0, **{**parts, "postgres_us": 10.0, "wal_bytes": 500.0, "heap_bytes": 800.0}),
            row("parts.batch.ids", boost=worker_us, **parts),
            row("batch", **web),
            row("batch.ids", **{**web, "postgres_us": 13.5, "heap_bytes": 1014.0}),
            row("wal", boost=780.0),
            row("wal.ids", boost=1011.0),
        ]
    )


def test_the_document_is_what_the_results_say() -> None:
    assert scaling.DOCUMENT.read_text() == scaling.as_markdown(read_results())


@pytest.mark.parametrize(
    "line",
    [
        "| CPU of the workers, cores | 0.3 | 3.0 | 30 |",
        "| worker processes, each at 70 % of its core | 1 | 5 | 43 |",
        "| partitions of each topic | 8 | 8 | 128 |",
        "| CPU of PostgreSQL, cores; to have, at 50 % | 0.2; 1 | 1.6; 4 | 16; 32 |",
        "| WAL, MB/s; TB a day | 7.0; 0.60 | 70; 6.05 | 700; 60.48 |",
        "| `events` with its index, TB a day | 0.86 | 8.64 | 86.40 |",
        "| keys of messageIds, two generations of seven days, TB | 1.21 | 12.09 | 120.91 |",
        "| brokers of eight cores, at 50 %, at least three | 3 | 3 | 3 |",
        "| topics, three replicas kept for three days, TB | 0.39 | 3.89 | 38.88 |",
        "A `messageId` adds some 230 bytes of WAL, 110 of table and, to what a worker with the role `web` asks for,",
        "5.5 µs of PostgreSQL's time; its key takes 100 bytes more for twice `IDEMPOTENCY_DAYS`, and",
        "| **worker, together** | 80 | 90 | 20 | 30 |",
        "three times the machines.",
    ],
)
def test_what_a_rate_takes_is_reckoned_from_the_costs(line: str) -> None:
    text = scaling.as_markdown(results())
    assert text is not None
    assert line in text
    assert "{" not in text


def test_there_is_no_document_without_its_rows() -> None:
    some = results()
    assert scaling.as_markdown(Results(some.rows[1:])) is None


@pytest.mark.parametrize(("first", "measured"), [(0, 3_886), (20_000, 1_481)])
def test_the_formula_for_pages_written_whole_is_near_what_was_measured(first: int, measured: float) -> None:
    """Of an index of 19,275 pages: the first 20,000 keys after a checkpoint, and the next."""
    pages, keys = 19_275, 20_000
    images = pages * (math.exp(-first / pages) - math.exp(-(first + keys) / pages)) / keys
    assert scaling._KEY_BYTES + images * scaling._PAGE_IMAGE_BYTES == pytest.approx(measured, rel=0.05)


def test_a_key_costs_less_the_shorter_it_is_remembered_and_the_further_apart_checkpoints_are() -> None:
    assert scaling.wal_of_a_key(7, 15) > scaling.wal_of_a_key(7, 60) > scaling.wal_of_a_key(1, 60) > scaling._KEY_BYTES
    assert scaling.wal_of_a_key(7, 15) < scaling._KEY_BYTES + scaling._PAGE_IMAGE_BYTES
