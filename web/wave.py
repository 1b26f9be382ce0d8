"""How many events come at once, and so how many of them one commit takes.

Clients that wait for their answers come in waves: what was stored together is answered together, and what they send
next comes together. A commit of the whole wave makes the fewest commits and messages, but while PostgreSQL works on it
there is nothing to read. With commits of half a wave one half is read and prepared while the other is stored.
"""

from __future__ import annotations

import math

from web.waiting import MOST_EVENTS, MOST_EVENTS_OF_MANY

#: How much of the recent peak of unanswered events is remembered from one look to the next.
_PEAK_DECAY = 0.95
#: From how many requests on a wave is cut in two: what a commit costs by itself is shared by those in it, and who sent
#: a hundred events in one request waits for all of them anyway.
_HALVES_FROM = 16
#: Where requests are too few to be cut in two, from so many waiting events on a second commit begins beside the first.
_BESIDE_FROM = 200
#: A commit takes this share of what is unanswered, where that is more than it takes otherwise: who is last waits for
#: several of them anyway, and larger ones cost less.
_SHARE = 1 / 4


class Wave:
    """The recent peak of what is unanswered, and what that makes of commits (docs/adr/0010).

    Where a worker only takes in, a commit takes half of what came in many requests, and of very many events a quarter.
    """

    def __init__(self, *, takes_in_only: bool = False) -> None:
        self._takes_in_only = takes_in_only
        self._peak = 0.0
        self._requests = 0.0

    def look(self, events: int, requests: int) -> None:
        """Note how many events, of how many requests, have no answer now; called when a commit may begin."""
        self._peak = max(events, self._peak * _PEAK_DECAY)
        self._requests = max(requests, self._requests * _PEAK_DECAY)

    @property
    def worth_waiting_for(self) -> float:
        """How many events a commit waits for, as long as they are at hand."""
        return min(MOST_EVENTS, self._peak / 2 if self._is_cut else self._peak)

    @property
    def most(self) -> int:
        """How many events a commit takes at most."""
        if not self._takes_in_only:
            return MOST_EVENTS
        most = min(MOST_EVENTS_OF_MANY, max(MOST_EVENTS, math.ceil(self._peak * _SHARE)))
        return min(most, math.ceil(self._peak / 2)) if self._is_cut else most

    @property
    def beside_from(self) -> int:
        """How many waiting events are stored while PostgreSQL still works on what came before."""
        return _BESIDE_FROM if self._takes_in_only and not self._is_cut else MOST_EVENTS

    @property
    def _is_cut(self) -> bool:
        return self._takes_in_only and self._requests >= _HALVES_FROM
