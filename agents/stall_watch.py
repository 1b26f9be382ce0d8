"""Ends the process when a handler blocks its event loop or eats its memory: what it has in hand comes again elsewhere.

A thread counts its own turns while the loop makes none. So a process that was stopped and continued, or a machine that
slept, is not taken for stuck: neither of the two got on. It costs the loop a turn every quarter of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mode import Service

from agents.calling import handler_in
from agents.streams import EXIT_UNACKNOWLEDGED
from boost_streams.logs import frames_of_stack, get_logger
from boost_streams.settings import Settings

#: How often the loop says that it gets on, and how often the thread looks (seconds).
TICK_SECONDS = 0.25
#: So many turns without the loop make memory that grows meanwhile a handler's.
_TURNS_OF_MEMORY = 2
#: How long the last log line may take (seconds): what blocks the loop may hold a lock of the logs.
_LAST_WORDS_SECONDS = 2.0

_log = get_logger(__name__)


class Stall:
    """Counts turns of the watching thread while the loop makes none, and what memory grows by meanwhile."""

    def __init__(self, seconds: float, memory_bytes: int, resident: Callable[[], int]) -> None:
        self._most_turns = max(1, round(seconds / TICK_SECONDS)) if seconds else None
        self._memory_bytes = memory_bytes
        self._resident = resident
        self._seen = 0
        self._before = resident()
        self._turns = 0
        #: How often the loop got on. Only the loop writes it.
        self.beats = 0

    def look(self) -> str | None:
        """Take one turn; return why the process must end, if it must."""
        if self.beats != self._seen:
            self._seen, self._turns, self._before = self.beats, 0, self._resident()
            return None
        self._turns += 1
        grown = self._resident() - self._before
        if self._turns >= _TURNS_OF_MEMORY and grown > self._memory_bytes:
            return f"took {grown >> 20} MiB of memory while nothing else got a turn"
        if self._most_turns is not None and self._turns >= self._most_turns:
            return f"blocked the event loop for {self._turns * TICK_SECONDS:g} s"
        return None


class StallWatch(Service):
    """Watches the loop that it is started on."""

    logger = logging.getLogger(__name__)

    def __init__(self, settings: Settings, end: Callable[[int], Any] = os._exit, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seconds = settings.handler_stall_seconds
        self._stall = Stall(self._seconds, settings.handler_memory_mib << 20, resident_bytes)
        self._end = end
        self._over = threading.Event()

    async def on_start(self) -> None:
        """Start the thread, unless watching is turned off."""
        if self._seconds:
            _dump_before_dying_of(signal.SIGVTALRM)
            threading.Thread(target=self._watch, args=(threading.get_ident(),), name="stall watch", daemon=True).start()

    @Service.task
    async def _beat(self) -> None:
        while not self.should_stop:
            self._stall.beats += 1
            await asyncio.sleep(TICK_SECONDS)

    async def on_stop(self) -> None:
        """Stop watching."""
        self._over.set()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _watch(self, loop_thread: int) -> None:
        while not self._over.wait(TICK_SECONDS):
            # Code that keeps the interpreter to itself, a regular expression say, lets this thread take no turn
            # either. Then this timer is not set anew, and the kernel ends the process after as much CPU time.
            signal.setitimer(signal.ITIMER_VIRTUAL, 2 * self._seconds + 1)
            if why := self._stall.look():
                self._leave(loop_thread, why)

    def _leave(self, loop_thread: int, why: str) -> None:
        words = threading.Thread(target=self._say, args=(loop_thread, why), daemon=True)
        words.start()
        words.join(_LAST_WORDS_SECONDS)
        self._end(EXIT_UNACKNOWLEDGED)

    def _say(self, loop_thread: int, why: str) -> None:
        frame = sys._current_frames().get(loop_thread)
        handler, event_id = handler_in(frame) or (None, None)
        who = f"handler {handler}" if handler else "something that is no handler"
        _log.critical(
            f"{who} {why}; leaving without acknowledging",
            action="stalled",
            handler=handler,
            event_id=event_id,
            error=frames_of_stack(frame),
        )


def resident_bytes() -> int:
    """Return how much memory this process has in use; where that cannot be read, 0."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _dump_before_dying_of(number: int) -> None:
    """Have a signal write where every thread is, and then do what it does by itself: end the process."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # stderr is no file, in tests
        faulthandler.register(number, all_threads=True, chain=True)
