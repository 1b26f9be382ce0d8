"""Who the end users of a project are: `user_signup`, `user_login`.

These events add to no metric of their own. Their effect is one `EndUserSeen`: the traits (with `email` and
`name` put among them), first and last seen, signed up at, and the number of logins.
"""

from __future__ import annotations

from typing import Any

from agents.payload_fields import Unreadable, clean_text, optional_object, optional_text
from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import EndUserSeen, Outcome, processed

FAMILY = "user"
EVENT_TYPES = ("user_signup", "user_login")


def handle(event: Event) -> Outcome:
    """Note that an end user signed up or logged in, with what the payload says about them."""
    try:
        seen = EndUserSeen(
            user_id=_user_id(event),
            traits=_traits(event),
            signed_up=event.event_type == "user_signup",
            logged_in=event.event_type == "user_login",
        )
    except Unreadable as problem:
        return problem.outcome
    return processed(seen)


def _user_id(event: Event) -> str:
    if not event.user_id:
        raise Unreadable.missing("userId", f"is required for {event.event_type}")
    if not clean_text(event.user_id):
        raise Unreadable.invalid("userId", "must not be blank")
    return event.user_id


def _traits(event: Event) -> dict[str, Any]:
    traits = dict(optional_object(event.payload, "traits"))
    for field in ("email", "name"):
        text = optional_text(event.payload, field)
        if text is not None:
            traits[field] = text
    return traits


EXAMPLES = (
    Example("user_signup", {"email": "ada@example.com", "name": "Ada"}, user_id="u-1"),
    Example("user_signup", {"traits": {"plan": "pro", "seats": 12, "quota": 0.5}}, user_id="u-1"),
    Example("user_signup", {"email": None, "traits": None}, user_id="u-1"),
    Example("user_signup", {"email": "ada@example.com"}, expect="userId"),
    Example("user_signup", {}, expect="userId", user_id="  "),
    Example("user_signup", {"email": 5}, expect="email", user_id="u-1"),
    Example("user_signup", {"traits": ["pro"]}, expect="traits", user_id="u-1"),
    Example("user_login", {}, user_id="u-1"),
    Example("user_login", {"name": "Ada", "traits": {"name": "ada", "plan": None}}, user_id="u-1"),
    Example("user_login", {}, expect="userId"),
    Example("user_login", {"name": {"first": "Ada"}}, expect="name", user_id="u-1"),
    Example("user_login", {"traits": "pro"}, expect="traits", user_id="u-1"),
)
