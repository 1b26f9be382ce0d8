"""Sends records to the broker, each with a deadline, and knows whether the broker is there.

A send that fails loses nothing: the caller leaves the batch to the sweeper. While the broker is away nothing is
sent but a probe, so that neither requests nor the sweeper queue up behind time-outs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiokafka.errors import MessageSizeTooLargeError

from boost_streams.errors import BoostError, BrokerAway, MessageTooLarge
from boost_streams.logs import get_logger
from boost_streams.metrics import BROKER_UP

#: How long one delivery may take before it counts as failed (seconds).
SEND_SECONDS = 10.0
#: How often the broker is asked whether it is there: while it is away, and while nothing is sent (seconds).
WATCH_AWAY_SECONDS = 0.5
WATCH_IDLE_SECONDS = 2.0
_ASK_SECONDS = 3.0

_log = get_logger(__name__)


class BrokerState:
    """Whether the broker takes messages. Sends and a watch on an idle broker keep it up to date."""

    def __init__(self, brokers: tuple[str, ...]) -> None:
        self.brokers = brokers
        self._problem: str | None = "not connected yet"
        self.ready = False
        #: Topics that this worker made: nothing that was published before is on them.
        self.topics_made: set[str] = set()

    @property
    def problem(self) -> str | None:
        """Why the broker counts as away, or None."""
        return self._problem

    @property
    def worth_trying(self) -> bool:
        """Tell whether a send has a chance: the producer runs and the broker is there."""
        return self.ready and self._problem is None

    def taken(self) -> None:
        """Note that the broker took a message, or answered."""
        if self._problem is not None:
            _log.info("broker takes messages", action="broker_up")
            self._problem = None
            BROKER_UP.set(1)

    def failed(self, error: BaseException) -> None:
        """Note that the broker did not take a message, or did not answer."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, BoostError):
            text = error.message
        if self._problem is None:
            _log.warning("broker away", action="broker_away", error=text)
        self._problem = text
        BROKER_UP.set(0)

    async def watch(self, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask the broker again and again until cancelled; `ask` raises when it does not answer."""
        while True:
            try:
                async with asyncio.timeout(_ASK_SECONDS):
                    await ask()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.failed(error)
            else:
                self.taken()
            await asyncio.sleep(WATCH_IDLE_SECONDS if self._problem is None else WATCH_AWAY_SECONDS)


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
            MessageTooLarge: It never will be taken.
        """
        try:
            async with asyncio.timeout(SEND_SECONDS):
                delivered = await self._topic.send(key=key, value=record)
                del record  # what waits for the broker are its bytes
                await delivered
        except (asyncio.CancelledError, MessageTooLarge):
            raise
        except MessageSizeTooLargeError as error:
            raise MessageTooLarge(f"a message is over the topic's limit: {error}") from error
        except Exception as error:
            self.state.failed(error)
            said = error.message if isinstance(error, BoostError) else f"{type(error).__name__}: {error}"
            raise BrokerAway(f"the broker did not take a message: {said}") from error
        self.state.taken()
