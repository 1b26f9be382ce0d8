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

    @classmethod
    def of_module(cls, module: ModuleType) -> Handler:
        """Read a handler module: FAMILY, EVENT_TYPES, handle, EXAMPLES and, optionally, prepare.

        Raises:
            TypeError: A part is missing; the message names the module and the part.
        """
        for part in ("FAMILY", "EVENT_TYPES", "handle", "EXAMPLES"):
            if not hasattr(module, part):
                raise TypeError(f"handler module {module.__name__} has no {part}")
        return cls(
            name=module.__name__.rpartition(".")[2],
            family=module.FAMILY,
            event_types=tuple(module.EVENT_TYPES),
            handle=module.handle,
            examples=tuple(module.EXAMPLES),
            prepare=getattr(module, "prepare", None),
            prepare_seconds=getattr(module, "PREPARE_SECONDS", 5.0),
        )


class Registry:
    """Finds the handler of an event type; the default handler takes what nobody else claims."""

    def __init__(self, handlers: Sequence[Handler], families: Sequence[str]) -> None:
        self.handlers = tuple(handlers)
        self._by_type: dict[str, Handler] = {}
        for handler in handlers:
            if handler.family not in families:
                raise ValueError(f"handler {handler.name}: no such family {handler.family!r}; use one of {list(families)}")
            for event_type in handler.event_types:
                other = self._by_type.get(event_type)
                if other is not None:
                    raise ValueError(f"{event_type!r} is claimed by both {other.name} and {handler.name}")
                self._by_type[event_type] = handler
        self._default = next((h for h in handlers if h.family == "default" and not h.event_types), None)
        if self._default is None:
            raise ValueError("no default handler: one with FAMILY = 'default' and no EVENT_TYPES")

    def handler_of(self, event_type: str) -> Handler:
        """Return the handler that takes an event type."""
        handler = self._by_type.get(event_type, self._default)
        assert handler is not None
        return handler

    def family_of(self, event_type: str) -> str:
        """Return the family, and so the topic `events.<family>`, to which an event type is routed."""
        return self.handler_of(event_type).family
