"""Sends records to the broker, each with a deadline, and knows whether the broker is there.

A send that fails loses nothing: the caller leaves the batch to the sweeper. While the broker is away nothing is
sent but a probe, so that neither requests nor the sweeper queue up behind time-outs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec

from boost_streams.errors import BrokerAway
from boost_streams.logs import get_logger
from boost_streams.metrics import BROKER_UP

#: How long one delivery may take before it counts as failed (seconds).
SEND_SECONDS = 10.0
#: While the broker is away, how often it is looked for (seconds).
PROBE_SECONDS = 0.5

_log = get_logger(__name__)


class BrokerState:
    """Whether the broker took the last message; while it did not, whether it can be reached again."""

    def __init__(self, brokers: tuple[str, ...]) -> None:
        self._brokers = brokers
        self._problem: str | None = "not connected yet"
        self._probed_at = 0.0
        self.ready = False

    @property
    def problem(self) -> str | None:
        """Why the broker counts as away, or None."""
        return self._problem

    def taken(self) -> None:
        """Note that a message was taken."""
        if self._problem is not None:
            _log.info("broker takes messages", action="broker_up")
            self._problem = None
            BROKER_UP.set(1)

    def failed(self, error: BaseException) -> None:
        """Note that a message was not taken."""
        if self._problem is None:
            _log.warning("broker away", action="broker_away", error=f"{type(error).__name__}: {error}")
        self._problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        BROKER_UP.set(0)

    async def worth_trying(self) -> bool:
        """Tell whether a send has a chance: the broker is up, or a probe just reached it."""
        if not self.ready:
            return False
        if self._problem is None:
            return True
        now = time.monotonic()
        if now - self._probed_at < PROBE_SECONDS:
            return False
        self._probed_at = now
        return await reachable(self._brokers)


async def reachable(brokers: tuple[str, ...], seconds: float = 1.0) -> bool:
    """Tell whether one of the brokers takes a TCP connection."""
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            return True
    return False


class Publisher:
    """Sends the records of one topic and waits for the broker's acknowledgement."""

    def __init__(self, topic: Any, state: BrokerState) -> None:
        self._topic = topic
        self.state = state

    async def send(self, record: msgspec.Struct, *, key: bytes | None = None) -> None:
        """Send a record and wait until every in-sync replica has it.

        Raises:
            BrokerAway: It was not taken within the deadline; it may or may not arrive later.
        """
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await (await self._topic.send(key=key, value=record))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.state.failed(error)
            raise BrokerAway(f"the broker did not take a message: {type(error).__name__}: {error}") from error
        self.state.taken()
