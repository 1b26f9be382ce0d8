"""docs/reference/topics.md says what boost_streams/topics.py and boost_streams/records.py declare."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agents.dead_letters import MOST_KEPT_BYTES
from agents.handlers import FAMILIES as HANDLER_FAMILIES
from boost_streams import records
from boost_streams.settings import load_settings
from boost_streams.topics import FAMILIES, TopicSpec, max_message_bytes, topic_specs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "topics.md"
RECORDS = (
    records.EventRecord,
    records.RawEventBatch,
    records.HandlerBatch,
    records.SettledDeltas,
    records.SettledCount,
    records.DeadLetter,
)
_DAY_MS = 86_400_000


def rows_under(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its header."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def kept(spec: TopicSpec) -> str:
    if "retention.ms" not in spec.config:
        return "–"
    days = int(spec.config["retention.ms"]) // _DAY_MS
    return f"{days} day{'s' if days > 1 else ''}"


def expected_row(spec: TopicSpec) -> list[str]:
    record = f"`{spec.record_type.__name__}`" if spec.record_type else "Faust's own"
    return [f"`{spec.name}`", record, spec.config["cleanup.policy"], kept(spec), spec.written_by, spec.read_by]


def test_page_lists_every_topic_as_it_is_declared() -> None:
    assert rows_under("Topics") == [expected_row(spec) for spec in topic_specs(load_settings({}))]


@pytest.mark.parametrize("record", RECORDS)
def test_page_lists_every_field_of_a_record_in_order(record: type[msgspec.Struct]) -> None:
    assert [row[0] for row in rows_under(record.__name__)] == [f"`{name}`" for name in record.__struct_fields__]


@pytest.mark.parametrize("record", RECORDS)
def test_page_gives_the_default_of_every_field_that_has_one(record: type[msgspec.Struct]) -> None:
    said = {}
    for row in rows_under(record.__name__):
        if match := re.search(r"default (\S+)$", row[2]):
            said[row[0].strip("`")] = match[1]
    fields = msgspec.structs.fields(record)
    declared = {field.name: field.default for field in fields if field.default is not msgspec.NODEFAULT}
    assert said == {name: "null" if default is None else str(default) for name, default in declared.items()}


def test_every_record_that_travels_is_on_the_page() -> None:
    travelling = {spec.record_type for spec in topic_specs(load_settings({})) if spec.record_type}
    assert travelling <= set(RECORDS)


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    settings = load_settings({})
    assert f"`KAFKA_TOPIC_PARTITIONS` (default {settings.kafka_topic_partitions})" in text
    assert max_message_bytes(settings) == 4 * 1024 * 1024
    assert "`max.message.bytes` is 4 MiB" in text
    assert max_message_bytes(load_settings({"MAX_EVENT_BYTES": "1000000"})) == 64 * 1_000_000
    assert f"its first {MOST_KEPT_BYTES // 1024} KiB" in text
    assert f"`schema_version`, now {records.SCHEMA_VERSION}:" in text


def test_families_of_topics_are_those_of_handlers() -> None:
    assert FAMILIES == HANDLER_FAMILIES


def test_prefix_is_put_before_every_topic() -> None:
    plain = topic_specs(load_settings({}))
    prefixed = topic_specs(load_settings({"KAFKA_TOPIC_PREFIX": "eu."}))
    assert [spec.name for spec in prefixed] == [f"eu.{spec.name}" for spec in plain]
