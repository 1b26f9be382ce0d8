"""Payments in detail; what holds for every handler is in the contract test."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.handlers import payment
from agents.handlers.currencies import CURRENCIES
from boost_streams.events import Event
from boost_streams.outcomes import Count, Failed, Outcome, Processed, processed
from boost_streams.records import EventRecord

NOON = dt.datetime(2026, 5, 4, 12, 0, tzinfo=dt.UTC)


def handle(event_type: str, **payload: Any) -> Outcome:
    return payment.handle(Event(UUID(int=1), UUID(int=2), event_type, NOON, NOON, payload))


def handle_json(amount: str) -> Outcome:
    """Handle a payment whose amount stands in the JSON as given."""
    raw = msgspec.Raw(b'{"amount": ' + amount.encode() + b', "currency": "EUR"}')
    record = EventRecord(UUID(int=1), UUID(int=2), "payment_completed", NOON, NOON, raw)
    return payment.handle(Event.of_record(record))


def amount_of(outcome: Outcome) -> Decimal:
    assert isinstance(outcome, Processed), outcome
    (effect,) = outcome.effects
    assert isinstance(effect, Count)
    return effect.amount


def failure(outcome: Outcome) -> tuple[str, str | None]:
    assert isinstance(outcome, Failed), outcome
    return outcome.code, outcome.field


def test_a_payment_adds_to_the_revenue_of_its_currency_and_day() -> None:
    outcome = handle("payment_completed", amount=Decimal("19.99"), currency="eur")
    assert outcome == processed(Count("revenue", ("EUR",), "day", 1, Decimal("19.99")))


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("19.99", "19.99"),
        ("0", "0"),
        ("-0.0", "0"),
        ("0.000001", "0.000001"),
        ("999999999999999999", "999999999999999999"),
        ("999999999999.999999", "999999999999.999999"),
        ("1.10", "1.1"),
        ("5.00000000", "5"),
        ("0.000000000", "0"),
        ("0.1", "0.1"),
    ],
)
def test_amounts_are_exact_as_number_and_as_text(text: str, amount: str) -> None:
    for outcome in (handle_json(text), handle("payment_completed", amount=text, currency="EUR")):
        found = amount_of(outcome)
        assert str(found) == amount
        assert not found.is_signed()


@pytest.mark.parametrize(("number", "amount"), [("1e3", "1000"), ("1.5E2", "150"), ("1e-6", "0.000001")])
def test_a_json_number_may_have_an_exponent(number: str, amount: str) -> None:
    assert str(amount_of(handle_json(number))) == amount


@pytest.mark.parametrize(
    "number",
    [
        "-1",
        "-0.01",
        "1e18",
        "1000000000000000000",
        "0.0000001",
        "1234567890123.123456",
        "1e999999",
        "1e-999999",
    ],
)
def test_a_number_beyond_the_limits_fails(number: str) -> None:
    assert failure(handle_json(number)) == ("invalid", "amount")


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "much",
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "1e3",
        "1E+999999999",
        "12,50",
        "1_000",
        "1 000",
        "0x10",
        "+5",
        ".5",
        "5.",
        "-1",
        "١٢",  # digits, but not those of JSON
        "1" * 19,
        pytest.param("9" * 60_000, id="60,000 nines"),
        "0." + "0" * 6 + "1",
        True,
        False,
        [19.99],
        {"value": 19.99},
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        float("nan"),
        float("inf"),
        10**18,
        pytest.param(10**5000, id="10**5000"),
    ],
)
@pytest.mark.parametrize("event_type", payment.EVENT_TYPES)
def test_what_is_no_amount_fails_and_is_named(event_type: str, amount: Any) -> None:
    assert failure(handle(event_type, amount=amount, currency="EUR")) == ("invalid", "amount")


def test_a_float_counts_as_it_is_written() -> None:
    assert amount_of(handle("payment_completed", amount=0.1, currency="EUR")) == Decimal("0.1")


@pytest.mark.parametrize("missing", ["amount", "currency"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_amount_and_currency_are_needed(missing: str, how: str) -> None:
    payload: dict[str, Any] = {"amount": 5, "currency": "EUR"}
    if how == "absent":
        del payload[missing]
    else:
        payload[missing] = None
    assert failure(handle("payment_completed", **payload)) == ("missing", missing)


@pytest.mark.parametrize("currency", ["EURO", "EU", "ZZZ", "BGN", "978", "€", "uſd", 978, ["EUR"], True])
@pytest.mark.parametrize("event_type", payment.EVENT_TYPES)
def test_what_is_no_currency_fails_and_is_named(event_type: str, currency: Any) -> None:
    assert failure(handle(event_type, amount=5, currency=currency)) == ("invalid", "currency")


def test_the_currencies_are_those_of_the_standard() -> None:
    assert len(CURRENCIES) == 178
    assert all(len(code) == 3 and code.isascii() and code.isalpha() and code.isupper() for code in CURRENCIES)
    assert {"EUR", "USD", "JPY", "GBP", "CNY", "INR", "XCG", "ZWG", "XXX", "XTS"} <= CURRENCIES
    assert not {"DEM", "HRK", "BGN", "ANG", "ZWL", "SLL"} & CURRENCIES


@pytest.mark.parametrize(
    ("payload", "dimensions", "amount"),
    [
        ({}, ("unknown", ""), "0"),
        ({"reason": None, "amount": None, "currency": None}, ("unknown", ""), "0"),
        ({"reason": " "}, ("unknown", ""), "0"),
        ({"reason": "card_declined", "amount": "5", "currency": "usd"}, ("card_declined", "USD"), "5"),
        ({"reason": "card_declined", "amount": 7}, ("card_declined", ""), "7"),
        ({"reason": "x" * 1000}, ("x" * 256, ""), "0"),
    ],
)
def test_a_failed_payment(payload: dict[str, Any], dimensions: tuple[str, ...], amount: str) -> None:
    expected = Count("payment_failures", dimensions, amount=Decimal(amount))
    assert handle("payment_failed", **payload) == processed(expected)


@pytest.mark.parametrize("reason", [51, ["declined"], {}, False])
def test_a_reason_is_a_text(reason: Any) -> None:
    assert failure(handle("payment_failed", reason=reason)) == ("invalid", "reason")


@given(st.integers(0, 10**18 - 1), st.integers(0, 6))
def test_every_amount_within_the_limits_is_kept_exactly(units: int, decimals: int) -> None:
    amount = Decimal(units).scaleb(-decimals)
    with localcontext(prec=3):  # no context may round it
        found = amount_of(handle("payment_completed", amount=amount, currency="EUR"))
        as_text = amount_of(handle("payment_completed", amount=f"{amount:f}", currency="EUR"))
    assert found == as_text == amount


def test_an_enormous_exponent_takes_no_time() -> None:
    began = time.perf_counter()
    handle_json("1e999999999")
    assert time.perf_counter() - began < 0.1
