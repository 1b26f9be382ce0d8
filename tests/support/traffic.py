"""Events of all types, some of them wrong, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

_KINDS = ("page", "page", "page", "click", "form", "user", "pay", "fail", "other")


def events(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield `count` events: pages, clicks, forms, users, payments, unknown types; about 2 % cannot be handled."""
    chance = random.Random(seed)
    for number in range(count):
        user = f"user-{chance.randrange(200)}"
        event_type, payload = _event(chance.choice(_KINDS), number, user, chance.choice(("EUR", "USD", "JPY")))
        broken = chance.random() < 0.02
        yield {"eventType": event_type, "payload": {} if broken else payload, "userId": user}


def _event(kind: str, number: int, user: str, currency: str) -> tuple[str, dict[str, Any]]:
    if kind == "page":
        return "page_view", {"url": f"https://shop.example/p/{number % 40}?utm_source=s{number % 3}&utm_medium=mail"}
    if kind == "click":
        return "click", {"element": f"button-{number % 15}"}
    if kind == "form":
        return "form_submit", {"form": f"form-{number % 5}"}
    if kind == "user":
        traits = {"email": f"{user}@example.org", "traits": {"plan": f"plan-{number % 4}"}}
        return ("user_login" if number % 3 else "user_signup"), traits
    if kind == "pay":
        return "payment_completed", {"amount": f"{number % 500}.25", "currency": currency}
    if kind == "fail":
        return "payment_failed", {"reason": f"reason-{number % 4}"}
    return f"custom_{number % 9}", {"n": number}
