"""What every handler promises, run over the whole registry: a new handler is held to it by being listed."""

from __future__ import annotations

import copy
import datetime as dt
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agents.handlers import FAMILIES, HANDLER_MODULES, load_registry
from agents.payload_fields import MAX_DIMENSION
from agents.registry import Example, Handler
from boost_streams.events import Event
from boost_streams.outcomes import Count, EndUserSeen, Failed, Outcome, Processed, TryAgain
from boost_streams.records import EventRecord

REGISTRY = load_registry()
#: A handler with `prepare` takes its result as well, and has a test of its own.
PURE = [handler for handler in REGISTRY.handlers if handler.prepare is None]
NOON = dt.datetime(2026, 5, 4, 12, 0, tzinfo=dt.UTC)
_encoder = msgspec.json.Encoder(decimal_format="number")

handlers = pytest.mark.parametrize("handler", PURE, ids=lambda handler: handler.name)
examples = pytest.mark.parametrize(
    ("handler", "given_example"),
    [(handler, shown) for handler in PURE for shown in handler.examples],
    ids=lambda value: value.name if isinstance(value, Handler) else f"{value.event_type}-{value.expect}",
)


def event_of(event_type: str, payload: Any, user_id: str | None = None) -> Event:
    """Build an event as handlers get it: its payload has been JSON, so that decimals are `Decimal`."""
    record = EventRecord(
        id=UUID("019690a0-0000-7000-8000-000000000001"),
        project_id=UUID("019690a0-0000-7000-8000-0000000000ff"),
        event_type=event_type,
        occurred_at=NOON,
        received_at=NOON,
        payload=msgspec.Raw(_encoder.encode(payload)),
        user_id=user_id,
    )
    return Event.of_record(record)


def event_of_example(shown: Example) -> Event:
    return event_of(shown.event_type, shown.payload, shown.user_id)


def verdict(outcome: Outcome) -> str | None:
    """Say what became of an event, in the words that examples use."""
    if isinstance(outcome, Failed):
        return outcome.field
    return "processed" if isinstance(outcome, Processed) else "try_again"


def types_of(handler: Handler) -> tuple[str, ...]:
    """List a handler's event types; for the default handler, those of its examples."""
    return handler.event_types or tuple(dict.fromkeys(shown.event_type for shown in handler.examples))


def spoiled(shown: Example) -> Iterator[Event]:
    """Spoil an example as a client could: empty, without its user, each field of another type."""
    yield event_of(shown.event_type, {}, shown.user_id)
    yield event_of(shown.event_type, shown.payload, None)
    for field in shown.payload:
        yield event_of(shown.event_type, {**shown.payload, field: [["?"]]}, shown.user_id)


def check_effects(outcome: Outcome) -> None:
    """Check that settlement can write what a handler answered."""
    assert isinstance(outcome, Processed | Failed | TryAgain)
    msgspec.json.encode(outcome)
    if isinstance(outcome, Failed):
        assert outcome.code
        assert outcome.message
    if not isinstance(outcome, Processed):
        return
    for effect in outcome.effects:
        if isinstance(effect, Count):
            check_count(effect)
        else:
            assert isinstance(effect, EndUserSeen)
            assert effect.user_id
            assert all(isinstance(key, str) for key in effect.traits)


def check_count(count: Count) -> None:
    hash(count)
    assert count.metric
    assert count.count >= 0
    assert isinstance(count.amount, Decimal)
    assert count.amount.is_finite()
    assert any(count.dimensions)
    for text in count.dimensions:
        assert isinstance(text, str)
        assert len(text) <= MAX_DIMENSION
        assert "\x00" not in text
        text.encode()


def test_the_registry_holds_every_listed_module_once() -> None:
    assert [handler.name for handler in REGISTRY.handlers] == [
        module.__name__.rpartition(".")[2] for module in HANDLER_MODULES
    ]
    assert {handler.family for handler in REGISTRY.handlers} == set(FAMILIES)


@examples
def test_an_example_gets_the_answer_it_expects(handler: Handler, given_example: Example) -> None:
    outcome = handler.handle(event_of_example(given_example))
    assert verdict(outcome) == given_example.expect, outcome
    assert REGISTRY.handler_of(given_example.event_type) is handler
    check_effects(outcome)


@examples
def test_a_handler_is_pure(handler: Handler, given_example: Example) -> None:
    event = event_of_example(given_example)
    before = copy.deepcopy(event.payload)
    first, second = handler.handle(event), handler.handle(event)
    assert first == second
    assert event.payload == before


@handlers
def test_every_event_type_has_an_example_that_is_processed(handler: Handler) -> None:
    shown = {e.event_type for e in handler.examples if e.expect == "processed"}
    assert shown
    assert set(types_of(handler)) <= shown


@handlers
def test_every_event_type_that_can_fail_has_an_example_that_fails(handler: Handler) -> None:
    can_fail = {
        shown.event_type
        for shown in handler.examples
        if any(isinstance(handler.handle(event), Failed) for event in spoiled(shown))
    }
    fails = {shown.event_type for shown in handler.examples if shown.expect not in ("processed", "try_again")}
    assert can_fail == fails


@handlers
def test_every_metric_is_documented_in_the_module(handler: Handler) -> None:
    documentation = sys.modules[handler.handle.__module__].__doc__ or ""
    outcomes = [handler.handle(event_of_example(shown)) for shown in handler.examples]
    effects = [effect for outcome in outcomes if isinstance(outcome, Processed) for effect in outcome.effects]
    metrics = {effect.metric for effect in effects if isinstance(effect, Count)}
    assert [metric for metric in sorted(metrics) if f"`{metric}`" not in documentation] == []
    for event_type in handler.event_types:
        assert f"`{event_type}`" in documentation


TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "https://u:p@Shop.example:99999/a?utm_source=%00&utm_campaign=%ED%A0%80",
            "https://[::1/",
            "//[v1.x]/",
            "https://ho\u2100st/",
            "http://\uff41.example",
            "/" + "x" * 1000,
            "1e999999",
            "sNaN",
            "-0",
            "9" * 400,
            "\x00",
            "uſd",
        ]
    ),
    st.builds("{}://{}".format, st.sampled_from(["http", "https", ""]), st.text(max_size=30)),
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(10**300), 10**300),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.sampled_from([Decimal("1E+999999"), Decimal("1E-999999"), Decimal("-0.0"), Decimal("0E-400")]),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def payloads_of(shown: tuple[Example, ...]) -> st.SearchStrategy[Mapping[str, Any]]:
    """Make payloads of any JSON: fields that the handler reads, with known values or any, and others."""
    fields = sorted({field for one in shown for field in one.payload} | {"x"})
    known = st.sampled_from([value for one in shown for value in one.payload.values()] or [None])
    return st.dictionaries(st.sampled_from(fields) | st.text(max_size=10), known | JSON, max_size=6)


TYPES = [(handler, event_type) for handler in PURE for event_type in types_of(handler)]


@pytest.mark.parametrize(("handler", "event_type"), TYPES, ids=[f"{h.name}-{t}" for h, t in TYPES])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), user_id=st.none() | st.text(max_size=20))
def test_a_handler_never_raises(handler: Handler, event_type: str, data: st.DataObject, user_id: str | None) -> None:
    payload = data.draw(payloads_of(handler.examples))
    event = Event(
        id=UUID(int=1),
        project_id=UUID(int=2),
        event_type=event_type,
        occurred_at=NOON,
        received_at=NOON,
        payload=payload,
        user_id=user_id,
    )
    check_effects(handler.handle(event))


@settings(max_examples=100, deadline=None)
@given(event_type=st.text(min_size=1, max_size=200))
@example(event_type="\x00")
@example(event_type="toString")
def test_every_event_type_has_a_handler(event_type: str) -> None:
    handler = REGISTRY.handler_of(event_type)
    assert REGISTRY.family_of(event_type) in FAMILIES
    if handler.prepare is None:
        check_effects(handler.handle(event_of(event_type, {})))
