"""A process that runs handlers one event at a time, within limits, for a worker that would rather not.

    python -m agents.isolated_process

It reads lists of events from its standard input and writes an outcome for each to what was its standard output, as
soon as it knows it: so whoever reads knows at which event it stopped. Each message is its length (4 bytes) and bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pickle
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from agents.calling import RAISED, WRONG_ANSWER, call_handler, outcomes, read_event
from agents.effects import Settled
from agents.handlers import load_registry
from agents.isolated import EXIT_MEMORY, GREETING, LENGTH
from agents.registry import Registry
from agents.services import HandlerServices
from boost_streams.errors import BoostError
from boost_streams.logs import configure_logging
from boost_streams.outcomes import Failed, Outcome, failed
from boost_streams.records import EventRecord
from boost_streams.settings import Settings, load_settings
from db.pool import Database
from db.redis import Redis

_PR_SET_PDEATHSIG = 1
_decoder: msgspec.json.Decoder[list[EventRecord]] = msgspec.json.Decoder(list[EventRecord])


class _Runner:
    """Runs the handlers of one registry, each event by itself."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._loop = asyncio.Runner()
        self._services: HandlerServices | None = None

    def outcome(self, record: EventRecord) -> Outcome:
        """Return what a handler says of an event."""
        event = read_event(record)
        if isinstance(event, Settled):
            return event.outcome
        handler = self._registry.handler_of(event.event_type)
        if handler.prepare is None:
            return call_handler(handler, event, {})
        (settled,) = self._loop.run(self._prepare_and_call(record))
        return settled.outcome

    async def _prepare_and_call(self, record: EventRecord) -> list[Settled]:
        if self._services is None:
            database = Database(self._settings.database_url, pipeline_connections=1, tenant_connections=1)
            try:
                await database.open()
            except BoostError:
                database = Database(self._settings.database_url)  # not open, and says so to whoever asks it
            self._services = HandlerServices(self._settings, database, Redis(self._settings.redis_url))
        return await outcomes(self._registry, [record], self._services)


def main() -> None:
    """Serve until the standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever handlers print must not come between the answers
    settings = load_settings()
    configure_logging(settings)
    runner = _Runner(load_registry(settings.boost_handler_modules), settings)
    _limit_itself(settings)
    _write(answers, GREETING)
    with os.fdopen(0, "rb") as questions:
        while (message := _read(questions)) is not None:
            for record in _decoder.decode(message):
                _allow_cpu(settings)
                _write(answers, _as_bytes(runner.outcome(record)))


def _as_bytes(outcome: Outcome) -> bytes:
    if isinstance(outcome, Failed) and outcome.code == RAISED and outcome.message.startswith("MemoryError"):
        os._exit(EXIT_MEMORY)
    try:
        return pickle.dumps(outcome)
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except Exception as error:
        return pickle.dumps(failed(WRONG_ANSWER, None, f"an answer that cannot be passed on: {type(error).__name__}"))


def _limit_itself(settings: Settings) -> None:
    """Bound the memory, leave no core behind, end with the worker, and be the first to go when memory runs out."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the worker says when to end: it closes the standard input
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    allowed = in_use + settings.handler_memory_mib * 1024 * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _allow_cpu(settings: Settings) -> None:
    """Allow for the next event twice the CPU time that the worker waits for it: the end of one whose worker hangs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + 2 * settings.handler_event_seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard))


def _read(questions: BinaryIO) -> bytes | None:
    head = questions.read(LENGTH.size)
    return questions.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _write(answers: int, message: bytes) -> None:
    left = memoryview(LENGTH.pack(len(message)) + message)
    while left:
        left = left[os.write(answers, left) :]


if __name__ == "__main__":
    main()
