"""Structured logs: every line has an `action` and the ids it speaks of; no key, no payload.

JSON in production, readable on a terminal elsewhere. The fields, declared once:

    action       what happened, such as `intake_commit` or `sweep_publish`
    event_id batch_id project_id worker_id request_id   which one
    topic partition offset handler                      where on the stream
    count seconds                                       how many, how long
    error                                               what went wrong, in words

Faust's own lines pass through the same formatter with `action="faust"`.
"""

from __future__ import annotations

import logging
import logging.config
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import structlog

from boost_streams.settings import Settings

#: The id of the request that is being answered; each request is a task, and so a context, of its own.
REQUEST_ID: ContextVar[str | None] = ContextVar("boost_request_id", default=None)

#: Field names that must never reach a log, whoever passes them.
_SECRET = frozenset({"key", "api_key", "apikey", "x-api-key", "authorization", "password", "payload", "database_url"})


def _name_request(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if (request_id := REQUEST_ID.get()) is not None:
        line.setdefault("request_id", request_id)
    return line


def _drop_secrets(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in [name for name in line if name.lower() in _SECRET]:
        line[name] = "***"
    return line


def _name_foreign_lines(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    line.setdefault("action", "faust")
    return line


#: What aiohttp's server logs as its own error though the client sent something broken and was told so.
_CLIENT_FAULTS = frozenset({"RequestPayloadError", "ContentEncodingError", "TransferEncodingError", "BadHttpMessage"})


def _not_a_clients_fault(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ not in _CLIENT_FAULTS


#: How often a Kafka client may say the same (seconds): away, a broker is tried ten times a second by each of three.
KAFKA_REPEAT_SECONDS = 10.0
#: How many different things are remembered at a time, but for those of the last `seconds`.
_MOST_REMEMBERED = 256
#: The logger that librdkafka's lines are given to.
LIBRDKAFKA = "librdkafka"
_KAFKA_CLIENTS = ("aiokafka", LIBRDKAFKA)


class NotSaidJustNow(logging.Filter):
    """Lets a Kafka client say each thing once per `seconds`; the next time tells how often it was left out."""

    def __init__(self, seconds: float = KAFKA_REPEAT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is to be written."""
        if not record.name.startswith(_KAFKA_CLIENTS):
            return True
        now, thing = self._clock(), (record.name, _thing_said(record))
        last, left_out = self._said.get(thing, (now - self._seconds, 0))
        if now - last < self._seconds:
            self._said[thing] = (last, left_out + 1)
            return False
        self._said[thing] = (now, 0)
        if len(self._said) > _MOST_REMEMBERED:
            self._said = {one: said for one, said in self._said.items() if now - said[0] < self._seconds}
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} times more meanwhile)"
            record.args = ()
        return True


def _thing_said(record: logging.LogRecord) -> str:
    """Return what a line says, without what differs each time it is said."""
    if record.name == LIBRDKAFKA:  # puts each into its own words, and ends with "(after 3ms in state CONNECT)"
        return record.getMessage().partition(" (after ")[0]
    return str(record.msg)


_SHARED: list[structlog.typing.Processor] = [
    _name_request,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _drop_secrets,
]


def get_logger(name: str) -> Any:
    """Return the logger of a module. Pass fields by keyword: `log.info("…", action="…", batch_id=…)`."""
    return structlog.stdlib.get_logger(name)


def frames_of(error: BaseException) -> str:
    """Return where an exception, and those it came from, were raised: types and frames, no messages.

    A message may quote a payload or a key.
    """
    parts = []
    for link in _chain(error):
        parts += [*traceback.format_tb(link.__traceback__), f"{type(link).__module__}.{type(link).__name__}\n"]
    return "".join(parts)


def frames_of_stack(frame: FrameType | None) -> str:
    """Return where a thread is: its frames, without the values of variables."""
    return "".join(traceback.format_stack(frame)) if frame is not None else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _frames_only(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Write an exception as types and frames: its message, and the values of variables, may hold a payload."""
    given = line.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        line["exception"] = frames_of(error)
    return line


def logging_config(settings: Settings) -> dict[str, Any]:
    """Build the dictConfig that the worker (and so Faust) runs with."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.logs_as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _frames_only]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "boost": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_SHARED, _name_foreign_lines],
                "processors": [*processors, renderer],
            }
        },
        "filters": {
            "not_a_clients_fault": {"()": lambda: _not_a_clients_fault},
            "not_said_just_now": {"()": NotSaidJustNow},
        },
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "boost", "filters": ["not_said_just_now"]}
        },
        "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "aiohttp.server": {"filters": ["not_a_clients_fault"]},
            "aiokafka": {"level": "WARNING"},
            "faust": {"level": "WARNING" if settings.log_level != "debug" else "DEBUG"},
            "mode": {"level": "WARNING" if settings.log_level != "debug" else "DEBUG"},
        },
    }


def configure_structlog() -> None:
    """Route structlog through the standard library, so that one handler writes every line."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def configure_logging(settings: Settings) -> None:
    """Set up logging for a process that is not a Faust worker (a command)."""
    configure_structlog()
    logging.config.dictConfig(logging_config(settings))
