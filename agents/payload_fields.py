"""Reading the fields of a payload: a reader returns the value, or raises `Unreadable`, which names the field.

Handlers turn `Unreadable` into the outcome of that one event; it never leaves a handler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from boost_streams.outcomes import Failed, failed

#: The longest text (characters) that becomes part of a rollup row's name; what is longer is cut.
MAX_DIMENSION = 256

#: Control characters and lone surrogates: PostgreSQL stores neither a NUL nor half a character.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]+")


class Unreadable(Exception):
    """A field is missing or cannot be read. `outcome` is what becomes of the event."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.outcome: Failed = failed(code, field, message)

    @classmethod
    def missing(cls, field: str, message: str) -> Unreadable:
        """Say that a required field is absent, null or blank."""
        return cls("missing", field, message)

    @classmethod
    def invalid(cls, field: str, message: str) -> Unreadable:
        """Say that a field is there but has the wrong type or form."""
        return cls("invalid", field, message)


def clean_text(text: str) -> str:
    """Replace what PostgreSQL cannot store by spaces, and trim."""
    if text.isprintable():  # then there is nothing to replace, and this is ten times as fast
        return text.strip()
    return _UNSTORABLE.sub(" ", text).strip()


def dimension(text: str) -> str:
    """Clean a text and cut it to `MAX_DIMENSION` characters, to name a rollup row."""
    return clean_text(text)[:MAX_DIMENSION].rstrip()


def optional_text(payload: Mapping[str, Any], field: str) -> str | None:
    """Read a text; None when it is absent, null or blank.

    Raises:
        Unreadable: It is something else than a text.
    """
    value = payload.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Unreadable.invalid(field, f"must be a text, not {type_name(value)}")
    return clean_text(value) or None


def first_text(payload: Mapping[str, Any], *fields: str) -> str:
    """Read the first of several fields that is given; every one that is given must be a text.

    Raises:
        Unreadable: One of them is no text, or none is given (the first is named).
    """
    first: str | None = None
    for field in fields:
        text = optional_text(payload, field)
        first = first or text
    if first is not None:
        return first
    raise Unreadable.missing(fields[0], "is required" + "".join(f", or {other}" for other in fields[1:]))


def optional_object(payload: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Read an object; empty when it is absent or null.

    Raises:
        Unreadable: It is something else than an object.
    """
    value = payload.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Unreadable.invalid(field, f"must be an object, not {type_name(value)}")
    return value


def type_name(value: object) -> str:
    """Name the JSON type of a value, for a message to whoever sent it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else "a number"
