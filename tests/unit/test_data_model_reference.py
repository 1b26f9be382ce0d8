"""`docs/reference/data-model.md` has every table, every column of `events` and every metric that a handler adds to."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from agents.effects import Settled, effects_of
from agents.handlers import load_registry
from boost_streams.event_id import id_at
from boost_streams.events import Event

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "data-model.md").read_text()
SQL = "\n".join(path.read_text() for path in sorted((ROOT / "db" / "migrations" / "sql").glob("*.sql")))


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def first_cells(text: str) -> set[str]:
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_page_has_every_table() -> None:
    assert first_cells(section("Tables")) == set(re.findall(r"^CREATE TABLE (\w+)", SQL, re.MULTILINE))


def test_page_has_every_column_of_events() -> None:
    body = re.search(r"^CREATE TABLE events \(\n(.*?)^\)", SQL, re.MULTILINE | re.DOTALL)
    assert body
    columns = set(re.findall(r"^    ([a-z_]+) ", body[1], re.MULTILINE)) - {"created_at"}
    columns |= set(re.findall(r"^ALTER TABLE events ADD COLUMN (\w+)", SQL, re.MULTILINE))
    assert first_cells(section("events")) == columns


def test_page_has_every_metric() -> None:
    now = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    added = set()
    for handler in load_registry().handlers:
        for example in handler.examples:
            event = Event(id_at(now), id_at(now), example.event_type, now, now, example.payload, example.user_id)
            added |= {
                key.metric for key in effects_of([Settled(event, handler.handle(event))], load_registry()).additions()
            }
    assert first_cells(section("Rollups")) == added
