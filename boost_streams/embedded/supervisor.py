"""Starts servers side by side, starts again those that die, and stops all of them in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from boost_streams.embedded.child_server import Server
from boost_streams.embedded.process import EmbeddedServerError

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 4.5
_LEFT_FOR_EACH_LATER_STAGE = 0.3
_LONGEST_BACK_OFF = 10.0
_FIRST_BACK_OFF = 0.5
_STEADY_SECONDS = 30.0


class Interrupted(Exception):
    """The user asked to stop while something was still being waited for."""


class Supervisor:
    """Keeps the servers of one ``boost dev`` running until it is told to stop.

    Servers are added in stages; ``stop`` takes the stages in reverse, the servers of one stage together.
    ``report`` is told, in a sentence, what dies and what is started again.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._stages: list[Sequence[Server]] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def add_stage(self, *servers: Server) -> None:
        """Add servers that are stopped together, before those added earlier."""
        self._stages.append(servers)

    def launch(self, work: Callable[[], None]) -> Future[None]:
        """Run ``work`` (a server's start, say) on a thread of its own; the future has its error."""
        future: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=run, daemon=True).start()
        return future

    def wait_for(self, *futures: Future[None]) -> None:
        """Wait until all are done.

        Raises:
            Interrupted: ``request_stop`` was called meanwhile.
            EmbeddedServerError: what the first that failed raised (or whatever else it did).
        """
        waiting = list(futures)
        while waiting:
            if self._stopping.wait(_LOOK_SECONDS / 5):
                raise Interrupted
            for future in [future for future in waiting if future.done()]:
                future.result()
                waiting.remove(future)

    def request_stop(self) -> None:
        """Make every wait end; nothing is started again from here on.

        Not for a signal handler: it takes a lock that the interrupted thread may hold.
        """
        self._stopping.set()

    def keep_running(self) -> None:
        """Watch every server, starting again what dies, until ``request_stop``."""
        for server in self._servers():
            thread = threading.Thread(target=self._watch, args=(server,), name=f"watch {server.name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        # Not without a time: a signal may come to another thread of the process, and then wakes nobody who waits here.
        while not self._stopping.wait(_LOOK_SECONDS):
            pass

    def stop(self, seconds: float = _STOP_SECONDS) -> None:
        """Stop every server, later stages first, killing what does not end; all within ``seconds``."""
        self._stopping.set()
        limit = time.monotonic() + seconds
        for left, stage in reversed(list(enumerate(self._stages))):
            time_left = limit - time.monotonic() - left * _LEFT_FOR_EACH_LATER_STAGE
            stops = [self.launch(self._stopper(server, max(0.1, time_left))) for server in stage]
            for stopped in stops:
                stopped.exception()
        for thread in self._threads:
            thread.join(_LOOK_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End every server at once."""
        self._stopping.set()
        for server in reversed(self._servers()):
            server.kill()

    def _servers(self) -> list[Server]:
        return [server for stage in self._stages for server in stage]

    @staticmethod
    def _stopper(server: Server, time_left: float) -> Callable[[], None]:
        return lambda: server.stop(min(server.stop_seconds, time_left))

    def _watch(self, server: Server) -> None:
        back_off = 0.0
        started = time.monotonic()
        while not self._stopping.wait(_LOOK_SECONDS):
            if server.alive():
                continue
            if self._stopping.is_set():
                return  # it did not die, it was stopped between these two looks
            if time.monotonic() - started > _STEADY_SECONDS:
                back_off = 0.0
            self._report(f"{server.last_words()}\n{server.name}: starting it again" + _after(back_off))
            if self._stopping.wait(back_off):
                return
            back_off = min(_LONGEST_BACK_OFF, back_off * 2 or _FIRST_BACK_OFF)
            started = time.monotonic()
            self._start_again(server)

    def _start_again(self, server: Server) -> None:
        try:
            server.start()
        except EmbeddedServerError as error:
            self._report(str(error))
        if self._stopping.is_set():
            server.kill()


def _after(seconds: float) -> str:
    return f" in {seconds:g} s" if seconds else ""
