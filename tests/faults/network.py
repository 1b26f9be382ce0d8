"""Faults of the network between two parts: `postgres`, `kafka`, `redis` from the workers, or `clients`."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.faults.rig import Rig

PAIRS = ("clients", "postgres", "kafka", "redis")


@dataclass(slots=True)
class Latency:
    """Half a second for the way there and back."""

    pair: str
    seconds: float = 0.5

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Hold every block back."""
        for proxy in rig.proxies_of(self.pair):
            proxy.delay = self.seconds / 2

    async def stop(self, rig: Rig) -> None:
        """Carry at once."""
        for proxy in rig.proxies_of(self.pair):
            proxy.delay = 0.0


@dataclass(slots=True)
class Loss:
    """One block in a hundred resets its connection."""

    pair: str
    share: float = 0.01

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Begin to lose."""
        for proxy in rig.proxies_of(self.pair):
            proxy.loss = self.share

    async def stop(self, rig: Rig) -> None:
        """Lose nothing more."""
        for proxy in rig.proxies_of(self.pair):
            proxy.loss = 0.0


@dataclass(slots=True)
class HalfOpen:
    """Connections that are open say nothing any more, and nobody is told; new ones work."""

    pair: str

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Go silent."""
        for proxy in rig.proxies_of(self.pair):
            proxy.half_open()

    async def stop(self, rig: Rig) -> None:
        """Do nothing: such a connection never comes back."""


@dataclass(slots=True)
class CutMidMessage:
    """Every connection carries half of its next block and is then reset."""

    pair: str

    async def start(self, rig: Rig, chance: random.Random) -> None:
        """Cut."""
        for proxy in rig.proxies_of(self.pair):
            proxy.cut_mid_message()

    async def stop(self, rig: Rig) -> None:
        """Do nothing: new connections work."""


KINDS = (Latency, Loss, HalfOpen, CutMidMessage)
