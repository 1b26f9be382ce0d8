"""Money: `payment_completed`, `payment_failed`.

Metrics, all per UTC day:

- `revenue` (currency): how many payments, and their amounts added up. Currencies are never added together.
- `payment_failures` (reason, currency): how many payments failed, and their amounts added up; reason is
  `unknown` and currency empty when not given.

An amount is counted as it was sent, in units of its currency (19.99 is 19.99 USD), as an exact decimal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from agents.handlers.currencies import CURRENCIES
from agents.payload_fields import Unreadable, dimension, optional_text, type_name
from agents.registry import Example
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, Processed, processed

FAMILY = "payment"
EVENT_TYPES = ("payment_completed", "payment_failed")

MAX_DIGITS = 18
MAX_DECIMALS = 6
_DECIMAL_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


def handle(event: Event) -> Outcome:
    """Count a payment, completed or failed, with its amount."""
    try:
        return _HANDLE[event.event_type](event.payload)
    except Unreadable as problem:
        return problem.outcome


def _payment_completed(payload: Mapping[str, Any]) -> Processed:
    amount = _amount(payload)
    if amount is None:
        raise Unreadable.missing("amount", "is required")
    currency = _currency(payload)
    if currency is None:
        raise Unreadable.missing("currency", "is required")
    return processed(Count("revenue", (currency,), amount=amount))


def _payment_failed(payload: Mapping[str, Any]) -> Processed:
    reason = optional_text(payload, "reason") or "unknown"
    amount, currency = _amount(payload), _currency(payload)
    dimensions = (dimension(reason), currency or "")
    return processed(Count("payment_failures", dimensions, amount=amount or Decimal(0)))


def _currency(payload: Mapping[str, Any]) -> str | None:
    code = optional_text(payload, "currency")
    if code is None:
        return None
    if not code.isascii() or code.upper() not in CURRENCIES:
        raise Unreadable.invalid("currency", "must be an active ISO 4217 code, such as EUR")
    return code.upper()


def _amount(payload: Mapping[str, Any]) -> Decimal | None:
    value = payload.get("amount")
    if value is None:
        return None
    number = _number(value)
    if not number.is_finite():
        raise Unreadable.invalid("amount", "must be a finite number")
    if number < 0:
        raise Unreadable.invalid("amount", "must be at least 0")
    exact = _within_limits(number)
    if exact is None:
        limits = f"{MAX_DIGITS} digits, {MAX_DECIMALS} of them after the point"
        raise Unreadable.invalid("amount", f"must have at most {limits}")
    return exact


def _number(value: Any) -> Decimal:
    if isinstance(value, str):
        if not _DECIMAL_TEXT.fullmatch(value.strip()):
            raise Unreadable.invalid("amount", "must be a decimal number such as 19.99")
        return Decimal(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Unreadable.invalid("amount", f"must be a number or a decimal text, not {type_name(value)}")
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _within_limits(number: Decimal) -> Decimal | None:
    """Return the same value without exponent and final zeros; None when it takes too many digits.

    Works on the digits alone: neither does 1e999999 grow to a million of them, nor does a context round.
    """
    if number == 0:
        return Decimal(0)
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    significant = len(digits)
    while digits[significant - 1] == 0:
        significant -= 1
    exponent += len(digits) - significant
    decimals, whole = max(-exponent, 0), max(significant + exponent, 0)
    if decimals > MAX_DECIMALS or whole + decimals > MAX_DIGITS:
        return None
    kept, zeros = digits[:significant], (0,) * max(exponent, 0)
    return Decimal((0, kept + zeros, min(exponent, 0)))


_HANDLE = {"payment_completed": _payment_completed, "payment_failed": _payment_failed}

EXAMPLES = (
    Example("payment_completed", {"amount": 19.99, "currency": "EUR"}),
    Example("payment_completed", {"amount": "999999999999.999999", "currency": "usd"}),
    Example("payment_completed", {"amount": 0, "currency": "JPY"}),
    Example("payment_completed", {"currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": True, "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": -1, "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": "NaN", "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": "1e3", "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": "12,50", "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": "0.0000001", "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": 10**18, "currency": "EUR"}, expect="amount"),
    Example("payment_completed", {"amount": 19.99}, expect="currency"),
    Example("payment_completed", {"amount": 19.99, "currency": "EURO"}, expect="currency"),
    Example("payment_completed", {"amount": 19.99, "currency": 978}, expect="currency"),
    Example("payment_failed", {"reason": "card_declined", "amount": "19.99", "currency": "eur"}),
    Example("payment_failed", {}),
    Example("payment_failed", {"reason": 51}, expect="reason"),
    Example("payment_failed", {"amount": "much"}, expect="amount"),
    Example("payment_failed", {"currency": "ZZZ"}, expect="currency"),
)
