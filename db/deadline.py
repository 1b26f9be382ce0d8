"""By when the request at hand must be answered: what waits for PostgreSQL on its behalf waits no longer.

A context variable, because a request's wait for the database happens at several places that know nothing of requests,
and none of them may make the answer late. Work on nobody's behalf (commits, settling, sweeping) has no such deadline.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

#: How long a request may take, the time not counted in which its body arrives (seconds). With PostgreSQL away it is
#: answered 503 by then.
ANSWER_SECONDS = 1.7

#: The event loop's time; None where no request is.
ANSWER_BY: ContextVar[float | None] = ContextVar("boost_answer_by", default=None)


def begin_request() -> None:
    """Start the time of the request that this context serves."""
    ANSWER_BY.set(asyncio.get_running_loop().time() + ANSWER_SECONDS)


def not_counting(seconds: float) -> None:
    """Leave out some time that went to the client."""
    answer_by = ANSWER_BY.get()
    if answer_by is not None:
        ANSWER_BY.set(answer_by + seconds)
