"""`docs/reference/settings.md` names every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boost_streams.settings import Settings, load_settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
ROW = re.compile(r"^\| `(?P<variable>[A-Z0-9_]+)` \| (?P<default>[^|]*) \|")


def documented() -> dict[str, str]:
    rows = [match for line in PAGE.read_text().splitlines() if (match := ROW.match(line))]
    assert len({row["variable"] for row in rows}) == len(rows)
    return {row["variable"]: row["default"].strip() for row in rows}


def shown(value: object) -> str:
    """Write a default as the page does."""
    if value is None:
        return "unset"
    if value in ("", ()):
        return "empty"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def test_page_names_every_setting_and_no_other() -> None:
    assert list(documented()) == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_page_tells_the_default(field: str) -> None:
    defaults = load_settings({})
    assert documented()[field.upper()] == shown(getattr(defaults, field))


def test_what_must_be_set_in_production_is_marked() -> None:
    marked = re.findall(r"^\| `([A-Z0-9_]+)` \|[^|]*\| must be set \|", PAGE.read_text(), re.MULTILINE)
    assert marked == ["NODE_ENV", "DATABASE_URL", "KAFKA_BROKER", "REDIS_URL"]
