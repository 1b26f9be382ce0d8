"""Sign-ups and logins in detail; what holds for every handler is in the contract test."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from agents.handlers import user
from boost_streams.events import Event
from boost_streams.outcomes import EndUserSeen, Failed, Outcome, processed

NOON = dt.datetime(2026, 5, 4, 12, 0, tzinfo=dt.UTC)


def handle(event_type: str, user_id: str | None = "u-1", **payload: Any) -> Outcome:
    event = Event(UUID(int=1), UUID(int=2), event_type, NOON, NOON, payload, user_id=user_id, anonymous_id="anon")
    return user.handle(event)


def test_a_signup() -> None:
    outcome = handle("user_signup", email=" ada@example.com ", name="Ada", traits={"plan": "pro"})
    traits = {"plan": "pro", "email": "ada@example.com", "name": "Ada"}
    assert outcome == processed(EndUserSeen("u-1", traits, signed_up=True))


def test_a_login() -> None:
    assert handle("user_login") == processed(EndUserSeen("u-1", {}, logged_in=True))


def test_email_and_name_go_before_traits_of_the_same_name() -> None:
    outcome = handle("user_login", name="Ada", traits={"name": "ada", "email": "old@example.com"})
    assert outcome == processed(EndUserSeen("u-1", {"name": "Ada", "email": "old@example.com"}, logged_in=True))


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_email_leaves_the_trait_alone(blank: str | None) -> None:
    outcome = handle("user_login", email=blank, traits={"email": "ada@example.com"})
    assert outcome == processed(EndUserSeen("u-1", {"email": "ada@example.com"}, logged_in=True))


def test_traits_are_any_json_and_keep_their_values() -> None:
    traits = {"quota": Decimal("0.10"), "seats": 12, "tags": ["a", {"b": None}], "left": None, "beta": True}
    assert handle("user_signup", traits=traits) == processed(EndUserSeen("u-1", traits, signed_up=True))


def test_the_payload_stays_as_it_was() -> None:
    traits = {"plan": "pro"}
    handle("user_signup", email="ada@example.com", traits=traits)
    assert traits == {"plan": "pro"}


@pytest.mark.parametrize("event_type", user.EVENT_TYPES)
@pytest.mark.parametrize(
    ("user_id", "code"), [(None, "missing"), ("", "missing"), ("  ", "invalid"), ("\x00", "invalid")]
)
def test_the_events_user_is_needed(event_type: str, user_id: str | None, code: str) -> None:
    outcome = handle(event_type, user_id, userId="in-the-payload")
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.field) == (code, "userId")
    assert outcome.message


@pytest.mark.parametrize("event_type", user.EVENT_TYPES)
@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("email", 5, "a number"),
        ("email", True, "a boolean"),
        ("name", {"first": "Ada"}, "an object"),
        ("name", ["Ada"], "a list"),
        ("traits", "pro", "a text"),
        ("traits", ["pro"], "a list"),
        ("traits", Decimal("1.5"), "a number"),
    ],
)
def test_a_field_of_another_type_is_named(event_type: str, field: str, value: Any, found: str) -> None:
    outcome = handle(event_type, **{field: value})
    assert isinstance(outcome, Failed)
    assert (outcome.code, outcome.field) == ("invalid", field)
    assert outcome.message.endswith(f"not {found}")
