"""Runs handlers apart from the worker: one event at a time, in a process that may be killed for any of them.

docs/adr/0015 says when. An event that kills the process is run again in a new one; if it kills that one as well, it
has failed. Handlers are functions without effects of their own, so that running one again does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec

from agents.calling import read_event
from agents.effects import Settled
from agents.registry import Registry
from boost_streams.events import Event
from boost_streams.logs import get_logger
from boost_streams.metrics import EVENTS_ISOLATED, HANDLER_KILLS
from boost_streams.outcomes import Outcome, failed
from boost_streams.records import EventRecord
from boost_streams.settings import Settings

#: The code under which an event fails that killed the process, and how often it had the chance to.
KILLED = "handler_killed"
MOST_KILLS = 2
#: How long the process may take to load the handlers (seconds), and how long it is kept when there is nothing to do.
START_SECONDS = 30.0
IDLE_SECONDS = 30.0
#: Up to how many events, and bytes of payload, the process is given at a time.
MOST_EVENTS = 200
MOST_BYTES = 4 * 1024 * 1024
#: How many events that killed it are remembered: copies of them may be on their way.
MOST_REMEMBERED = 1000
#: Time is counted in waits of this long (seconds) that ended: one that a stopped process slept through counts once.
TICK_SECONDS = 0.1

#: What the process writes first, and what it ends with when an event took more memory than it may have.
GREETING = b"ready"
EXIT_MEMORY = 71
#: Each message, either way, is its length and its bytes.
LENGTH = struct.Struct(">I")

_log = get_logger(__name__)


class CannotIsolate(Exception):
    """The process could not be started: it is no event's doing."""


class _Died(Exception):
    """The process ended, or had to be ended; its text says why."""


class _Child:
    """One such process."""

    def __init__(self, process: asyncio.subprocess.Process, memory_mib: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._memory_mib = memory_mib
        self._questions = process.stdin
        self._answers = process.stdout
        self._read = bytearray()

    @classmethod
    async def start(cls, settings: Settings) -> _Child:
        """Start one and wait until it is ready.

        Raises:
            CannotIsolate: It does not start, or not in time.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agents.isolated_process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CannotIsolate(str(error)) from error
        child = cls(process, settings.handler_memory_mib)
        try:
            greeting = await child.answer(START_SECONDS)
        except _Died as died:
            raise CannotIsolate(str(died)) from None
        except BaseException:
            child.kill()
            raise
        assert greeting == GREETING
        return child

    @property
    def ended(self) -> bool:
        """Tell whether it is gone."""
        return self._process.returncode is not None

    async def ask(self, records: Sequence[EventRecord]) -> None:
        """Hand over events; the process reads all of them before it begins."""
        message = msgspec.json.encode(records)
        with contextlib.suppress(ConnectionError):  # then it has ended, as the first answer will say
            self._questions.write(LENGTH.pack(len(message)) + message)

    async def answer(self, seconds: float) -> bytes:
        """Return the next answer.

        Raises:
            _Died: There is none, or none within so many seconds of this process's own time.
        """
        waited = 0.0
        while (message := self._next()) is None:
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    got = await self._answers.read(65536)
            except TimeoutError:
                waited += TICK_SECONDS
                if waited >= seconds:
                    self.kill()
                    await self._process.wait()
                    raise _Died(f"no answer within {seconds:g} s") from None
                continue
            if not got:
                raise _Died(self._why(await self._process.wait()))
            self._read += got
        return message

    def _next(self) -> bytes | None:
        if len(self._read) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._read)[0]
        if len(self._read) < end:
            return None
        message = bytes(self._read[LENGTH.size : end])
        del self._read[:end]
        return message

    def _why(self, code: int) -> str:
        if code == EXIT_MEMORY:
            return f"it took over {self._memory_mib} MiB of memory"
        return f"the process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class IsolatedHandlers:
    """Runs the handlers of a registry in one such process after the other."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._child: _Child | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._one_at_a_time = asyncio.Lock()
        self._killers: dict[tuple[UUID, int], Outcome] = {}

    async def outcomes(self, records: Sequence[EventRecord]) -> tuple[list[Settled], list[Settled]]:
        """Ask the handlers about each event; return all that came out, and those of events that killed the process.

        Raises:
            CannotIsolate: The process cannot be started.
        """
        async with self._one_at_a_time:
            if self._resting is not None:
                self._resting.cancel()
            try:
                return await self._outcomes(records)
            except BaseException:
                self.close()
                raise
            finally:
                self._resting = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    async def _outcomes(self, records: Sequence[EventRecord]) -> tuple[list[Settled], list[Settled]]:
        settled: list[Settled] = []
        killers: list[Settled] = []
        kills: Counter[UUID] = Counter()
        left = []
        for record in records:
            if (known := self._killers.get((record.id, record.attempt))) is None:
                left.append(record)
            else:  # delivered again, though it was found out: nobody has to die for it once more
                settled.append(Settled(_event_of(record), known))
        while left:
            asked = list(_first_of(left))
            answers, why = await self._ask(asked)
            settled += [Settled(_event_of(record), answer) for record, answer in zip(asked, answers, strict=False)]
            left = left[len(answers) :]
            if why is None:
                continue
            record = left[0]
            kills[record.id] += 1
            self._say_killed(record, why)
            if kills[record.id] == MOST_KILLS:
                reason = f"killed the process that ran it alone, {MOST_KILLS} times: {why}"
                killer = Settled(_event_of(record), failed(KILLED, None, reason))
                killers += [killer for other in left if other.id == record.id]
                left = [other for other in left if other.id != record.id]
                self._remember(killer)
        return settled + killers, killers

    def _remember(self, killer: Settled) -> None:
        self._killers[killer.event.id, killer.event.attempt] = killer.outcome
        if len(self._killers) > MOST_REMEMBERED:
            del self._killers[next(iter(self._killers))]

    async def _ask(self, records: Sequence[EventRecord]) -> tuple[list[Outcome], str | None]:
        """Ask about events; return the answers up to the first that killed the process, and why it died."""
        if self._child is None or self._child.ended:
            self._child = await _Child.start(self._settings)
        child = self._child
        await child.ask(records)
        answers: list[Outcome] = []
        try:
            for record in records:
                message = await child.answer(self._seconds_of(record))
                # What it reads was written by our own process, which runs our own handlers.
                answers.append(pickle.loads(message))  # noqa: S301
                EVENTS_ISOLATED.labels(handler=self._registry.handler_of(record.event_type).name).inc()
        except _Died as died:
            self._child = None
            return answers, str(died)
        return answers, None

    def _seconds_of(self, record: EventRecord) -> float:
        handler = self._registry.handler_of(record.event_type)
        seconds = self._settings.handler_event_seconds
        return seconds if handler.prepare is None else seconds + handler.prepare_seconds

    def _say_killed(self, record: EventRecord, why: str) -> None:
        handler = self._registry.handler_of(record.event_type).name
        HANDLER_KILLS.labels(handler=handler).inc()
        _log.error(
            "an event killed the process that ran it alone",
            action="handler_killed",
            handler=handler,
            event_id=str(record.id),
            project_id=str(record.project_id),
            error=why,
        )


def _event_of(record: EventRecord) -> Event:
    event = read_event(record)
    return event.event if isinstance(event, Settled) else event


def _first_of(records: Sequence[EventRecord]) -> Iterator[EventRecord]:
    size = 0
    for number, record in enumerate(records[:MOST_EVENTS]):
        size += len(record.payload)
        if number and size > MOST_BYTES:
            return
        yield record
