"""Every error that Boost raises on purpose, with its HTTP status and whether a retry can help.

BoostError
├── ConfigurationError        the settings are wrong: all problems at once (exit code 2)
├── RequestError              the client's fault, answered 4xx
│   ├── MalformedJson         400  the body is not JSON
│   ├── Unauthorized          401  no key, or one that is unknown or revoked
│   ├── Forbidden             403  the key may not do this
│   ├── NotFound              404  no such thing in this project
│   ├── MethodNotAllowed      405
│   ├── Conflict              409  the thing is in a state that does not allow it
│   ├── TooLarge              413  over a limit of size
│   ├── UnsupportedMediaType  415
│   ├── Invalid               422  a field is wrong; names it
│   └── RateLimited           429
├── Overloaded                503  too much is waiting; retry soon
├── Unavailable               503  a server Boost needs is away; retry soon
├── MessageTooLarge           a record is over the topic's limit; sending it again will not help
├── TopicMismatch             an existing topic does not fit the settings
├── MayNotMigrate             the login of DATABASE_URL has no right to change the schema
└── BrokerAway                the broker does not answer; what was to be sent stays in PostgreSQL
    └── TopicSettingsUntold   it answers, but does not tell how its topics are set
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

_Raised = TypeVar("_Raised", bound=BaseException)


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong with one field of a request or one variable of the environment."""

    field: str
    message: str


class BoostError(Exception):
    """Base of every error that Boost raises on purpose.

    `code` and `status` are what an HTTP client sees; `retry_after` (seconds) is set where a retry can help.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, problems: tuple[FieldProblem, ...] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems
        self.retry_after = retry_after


def without_frames(error: _Raised) -> _Raised:
    """Take off an error what its raise left there, and return it: for one that goes on as a value, or was answered.

    A frame that holds the error and is held by its traceback is a cycle: it would keep all that the frame had in hand,
    a body of megabytes too, until Python looks for cycles, which it does seldom (`boost_streams/worker.py`).
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class ConfigurationError(BoostError):
    """The environment is not usable; `problems` names every variable and what would be right."""

    def __init__(self, problems: tuple[FieldProblem, ...]) -> None:
        lines = "\n".join(f"  {p.field}: {p.message}" for p in problems)
        super().__init__(f"The configuration is not usable:\n{lines}", problems=problems)


class RequestError(BoostError):
    """The request cannot be served as it is; sending it again unchanged will not help."""

    code = "invalid"
    status = 422


class MalformedJson(RequestError):
    """The body is not JSON."""

    code = "malformed_json"
    status = 400


class Unauthorized(RequestError):
    """No API key, or one that is unknown or revoked."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """The key is known but may not do this."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is no such thing in the caller's project."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(RequestError):
    """The thing is in a state that does not allow what was asked."""

    code = "conflict"
    status = 409


class TooLarge(RequestError):
    """The body or the event is over a limit of size."""

    code = "too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The body's content type is not one that this path reads."""

    code = "unsupported_media_type"
    status = 415


class Invalid(RequestError):
    """A field has a value that cannot be accepted; `problems` names it."""

    @classmethod
    def field(cls, field: str, message: str) -> Invalid:
        """Build the error for one field."""
        return cls(f"{field}: {message}", problems=(FieldProblem(field, message),))


class RateLimited(RequestError):
    """The caller sent more than its share."""

    code = "rate_limited"
    status = 429


class Overloaded(BoostError):
    """More is waiting than Boost holds in memory; `retry_after` says when to come again."""

    code = "overloaded"
    status = 503


class Unavailable(BoostError):
    """A server that Boost needs does not answer; nothing was stored."""

    code = "unavailable"
    status = 503


class MessageTooLarge(BoostError):
    """A record is over the topic's limit; the events it carries stay `pending` in PostgreSQL."""


class TopicMismatch(BoostError):
    """An existing topic has other partitions, replication or message size than the settings ask for."""


class MayNotMigrate(BoostError):
    """The login of DATABASE_URL has no right to change the schema; the message says what to grant."""


class BrokerAway(BoostError):
    """The broker did not take a message in time; the events it carried stay `pending` in PostgreSQL."""


class TopicSettingsUntold(BrokerAway):
    """The broker does not know the question how a topic is set, as that of `boost dev` does not."""
