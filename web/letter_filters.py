"""What selects dead letters: the query of a list, and the body of a replay or discard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args
from uuid import UUID

from pydantic import Field

from boost_streams.errors import FieldProblem, Invalid
from db.dead_letters import LetterFilter, Status
from web.formats.client_clock import read_timestamp
from web.keys import SmallBody

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200
#: The longest text that a filter may hold (characters): as an event type.
LONGEST_TEXT = 200
#: How many letters may be named at once.
MOST_IDS = 1_000

STATUSES: tuple[Status, ...] = get_args(Status)
#: What may be replayed, and what discarded; the first is meant where a filter names no status.
REPLAYABLE: tuple[Status, ...] = ("open", "discarded")
DISCARDABLE: tuple[Status, ...] = ("open",)

_FILTERS = ("status", "eventType", "handler", "code", "from", "to")
_PAGING = ("limit", "cursor")


class SelectionBody(SmallBody):
    """The body of `POST /dead-letters/replay` and `POST /dead-letters/discard`."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=MOST_IDS)] | None = None
    filter: dict[str, Any] | None = None
    cursor: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those named, or those of a filter from a cursor on. `statuses` are those that count."""

    statuses: tuple[Status, ...]
    ids: tuple[UUID, ...] | None
    wanted: LetterFilter
    cursor: str | None = None
    dry_run: bool = False

    def after(self, cursor: str | None) -> Selection:
        """Return the same selection from a cursor on."""
        return replace(self, cursor=cursor)


def read_query(query: Any) -> tuple[LetterFilter, int, str | None]:
    """Read the parameters of a list: filter, limit and cursor.

    Raises:
        Invalid: A parameter is wrong, repeated or unknown; names each.
    """
    known = (*_FILTERS, *_PAGING)
    problems = _unknown(query, known)
    problems += [FieldProblem(name, "must be given once") for name in known if len(query.getall(name, [])) > 1]
    wanted = _read_filter(query, problems, "")
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", limit, re.ASCII) or not 1 <= int(limit) <= LARGEST_LIMIT:
        problems.append(FieldProblem("limit", f"must be a whole number from 1 to {LARGEST_LIMIT}"))
    _raise(problems)
    return wanted, int(limit), query.get("cursor")


def read_selection(body: SelectionBody, statuses: tuple[Status, ...]) -> Selection:
    """Read which letters are to be replayed or discarded.

    Raises:
        Invalid: Neither ids nor a filter, or both; or part of the filter is wrong: names each.
    """
    if (body.ids is None) == (body.filter is None):
        raise Invalid.field("filter", "give either ids or filter; {} takes all that are open")
    if body.ids is not None:
        return Selection(statuses, tuple(body.ids), LetterFilter(), None, body.dry_run)
    given = body.filter or {}
    problems = [FieldProblem(f"filter.{one.field}", one.message) for one in _unknown(given, _FILTERS)]
    wanted = _read_filter(given, problems, "filter.")
    if wanted.status is not None and wanted.status not in statuses:
        problems.append(FieldProblem("filter.status", f"must be {' or '.join(statuses)}"))
    _raise(problems)
    return Selection(statuses, None, replace(wanted, status=wanted.status or statuses[0]), body.cursor, body.dry_run)


def _unknown(given: Iterable[str], known: tuple[str, ...]) -> list[FieldProblem]:
    message = f"is not known here; there are {', '.join(known)}"
    return [FieldProblem(name, message) for name in dict.fromkeys(given) if name not in known]


def _read_filter(given: Mapping[str, Any], problems: list[FieldProblem], prefix: str) -> LetterFilter:
    """Read a filter; what is wrong about it is added to the problems."""

    def read(name: str, reader: Callable[[str, Any], Any]) -> Any:
        if given.get(name) is None:
            return None
        try:
            return reader(name, given[name])
        except Invalid as error:
            problems.extend(FieldProblem(f"{prefix}{name}", problem.message) for problem in error.problems)
            return None

    return LetterFilter(
        status=read("status", _status),
        event_type=read("eventType", _text),
        handler=read("handler", _text),
        code=read("code", _text),
        since=read("from", _time),
        until=read("to", _time),
    )


def _status(name: str, value: Any) -> Any:
    if value not in STATUSES:
        raise Invalid.field(name, f"must be one of {', '.join(STATUSES)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TEXT or not value.strip() or "\x00" in value:
        raise Invalid.field(name, f"must be 1 to {LONGEST_TEXT} characters, not blank")
    return value


def _time(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise Invalid.field(name, "must be ISO 8601, such as 2026-01-31T12:00:00Z")
    return read_timestamp(value, name)


def _raise(problems: list[FieldProblem]) -> None:
    if problems:
        message = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        raise Invalid(message, problems=tuple(problems))
