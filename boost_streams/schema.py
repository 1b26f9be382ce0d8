"""Faust schemas of our records: an undecodable message becomes a value, so that it cannot stop an agent."""

from __future__ import annotations

from typing import Any

import faust
import msgspec

from boost_streams.records import Malformed, Newer, RecordCodec, UnknownSchemaVersion


class RecordSchema(faust.Schema):  # type: ignore[type-arg]
    """Reads and writes one record type; keys are bytes."""

    def __init__(self, record_type: type[msgspec.Struct]) -> None:
        super().__init__(allow_empty=False)
        self.codec = RecordCodec(record_type)

    def loads_key(self, app: Any, message: Any, **_: Any) -> Any:
        """Return the key's bytes as they are."""
        return message.key

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        """Return the record, or a `Newer` or `Malformed` value that says where the message stood. Never raises."""
        try:
            return self.codec.decode(message.value)
        except UnknownSchemaVersion as error:
            return Newer(message.topic, message.partition, message.offset, error.schema_version, error.events)
        except Exception as error:
            raw = message.value if isinstance(message.value, bytes) else b""
            return Malformed(message.topic, message.partition, message.offset, f"{type(error).__name__}: {error}", raw)

    def dumps_key(self, app: Any, key: Any, *, serializer: Any = None, headers: Any) -> Any:
        """Write the key: bytes as they are."""
        return key, headers

    def dumps_value(self, app: Any, value: Any, *, serializer: Any = None, headers: Any) -> Any:
        """Write a record as JSON."""
        return self.codec.encode(value), headers
