"""Which handler takes which event type. Registration is explicit: the one list is `HANDLER_MODULES`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

from boost_streams.events import Event
from boost_streams.outcomes import Outcome

Handle = Callable[..., Outcome]
Prepare = Callable[[Sequence[Event], Any], Awaitable[Mapping[UUID, Any]]]


#: How often a handler may answer "try again" to one event, and for how long (seconds), unless its module says
#: otherwise. With the usual back-off fifty attempts take seven hours.
MAX_ATTEMPTS = 50
MAX_AGE_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Example:
    """An event that a handler must know how to answer, and what it must answer.

    `expect` is `"processed"`, `"try_again"`, or the name of the field that makes the event fail.
    """

    event_type: str
    payload: Mapping[str, Any]
    expect: str = "processed"
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Handler:
    """One file of `agents/handlers/`: its event types, its function, and the family whose topic feeds it."""

    name: str
    family: str
    event_types: tuple[str, ...]
    handle: Handle
    examples: tuple[Example, ...]
    prepare: Prepare | None = None
    prepare_seconds: float = 5.0
    max_attempts: int = MAX_ATTEMPTS
    max_age_seconds: float = MAX_AGE_SECONDS
    #: Raised when its effects change: counters carry it, and `boost replay` counts stored events anew under it.
    version: int = 1

    @classmethod
    def of_module(cls, module: ModuleType) -> Handler:
        """Read a handler module: FAMILY, EVENT_TYPES, handle, EXAMPLES and, optionally, prepare, limits and VERSION.

        Raises:
            TypeError: A part is missing, no tuple, or no limit; the message names the module and the part.
        """
        for part in ("FAMILY", "EVENT_TYPES", "handle", "EXAMPLES"):
            if not hasattr(module, part):
                raise TypeError(f"handler module {module.__name__} has no {part}")
        for part in ("EVENT_TYPES", "EXAMPLES"):
            if not isinstance(getattr(module, part), tuple | list):  # ("x") is a text, not a tuple of one
                raise TypeError(f'{part} of handler module {module.__name__} must be a tuple, such as ("x",)')
        for part, kinds in (("MAX_ATTEMPTS", int), ("MAX_AGE_SECONDS", int | float)):
            limit = getattr(module, part, 1)
            if isinstance(limit, bool) or not isinstance(limit, kinds) or not limit > 0:
                raise TypeError(f"{part} of handler module {module.__name__} must be a number above 0")
        version = getattr(module, "VERSION", 1)
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 1 << 31:
            raise TypeError(f"VERSION of handler module {module.__name__} must be a whole number from 1")
        return cls(
            name=module.__name__.rpartition(".")[2],
            family=module.FAMILY,
            event_types=tuple(module.EVENT_TYPES),
            handle=module.handle,
            examples=tuple(module.EXAMPLES),
            prepare=getattr(module, "prepare", None),
            prepare_seconds=getattr(module, "PREPARE_SECONDS", 5.0),
            max_attempts=getattr(module, "MAX_ATTEMPTS", MAX_ATTEMPTS),
            max_age_seconds=float(getattr(module, "MAX_AGE_SECONDS", MAX_AGE_SECONDS)),
            version=version,
        )


class Registry:
    """Finds the handler of an event type; the default handler takes what nobody else claims."""

    def __init__(self, handlers: Sequence[Handler], families: Sequence[str]) -> None:
        self.handlers = tuple(handlers)
        self._by_type: dict[str, Handler] = {}
        names: set[str] = set()
        for handler in handlers:
            if handler.name in names:
                raise ValueError(f"two handlers are called {handler.name}; rename the file of one")
            names.add(handler.name)
            if handler.family not in families:
                known = ", ".join(families)
                raise ValueError(f"handler {handler.name}: no such family {handler.family!r}; use one of {known}")
            for event_type in handler.event_types:
                self._claim(event_type, handler)
        self._default = self._only_default()

    def _claim(self, event_type: str, handler: Handler) -> None:
        other = self._by_type.setdefault(event_type, handler)
        if other is not handler:
            raise ValueError(f"{event_type!r} is claimed by both {other.name} and {handler.name}")

    def _only_default(self) -> Handler:
        """Find the one handler without event types, which takes the rest."""
        for handler in self.handlers:
            if not handler.event_types and handler.family != "default":
                raise ValueError(f"handler {handler.name} has no EVENT_TYPES, so it would never be called")
        defaults = [handler for handler in self.handlers if not handler.event_types]
        if not defaults:
            raise ValueError("no default handler: one with FAMILY = 'default' and no EVENT_TYPES")
        if len(defaults) > 1:
            raise ValueError(f"{defaults[0].name} and {defaults[1].name} are both default handlers; keep one")
        return defaults[0]

    def handler_of(self, event_type: str) -> Handler:
        """Return the handler that takes an event type."""
        return self._by_type.get(event_type, self._default)

    def family_of(self, event_type: str) -> str:
        """Return the family, and so the topic `events.<family>`, to which an event type is routed."""
        return self.handler_of(event_type).family
