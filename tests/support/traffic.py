"""Events of all types, some of them wrong, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any


def events(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield `count` events: pages, clicks, forms, users, payments, unknown types; about 2 % cannot be handled."""
    chance = random.Random(seed)
    for number in range(count):
        kind = chance.choice(("page", "page", "page", "click", "form", "user", "pay", "fail", "other"))
        user = f"user-{chance.randrange(200)}"
        body: dict[str, Any] = {
            "page": lambda: {
                "eventType": "page_view",
                "payload": {"url": f"https://shop.example/p/{number % 40}?utm_source=s{number % 3}&utm_medium=mail"},
            },
            "click": lambda: {"eventType": "click", "payload": {"element": f"button-{number % 15}"}},
            "form": lambda: {"eventType": "form_submit", "payload": {"form": f"form-{number % 5}"}},
            "user": lambda: {
                "eventType": "user_login" if number % 3 else "user_signup",
                "payload": {"email": f"{user}@example.org", "traits": {"plan": f"plan-{number % 4}"}},
            },
            "pay": lambda: {
                "eventType": "payment_completed",
                "payload": {"amount": f"{number % 500}.25", "currency": chance.choice(("EUR", "USD", "JPY"))},
            },
            "fail": lambda: {"eventType": "payment_failed", "payload": {"reason": f"reason-{number % 4}"}},
            "other": lambda: {"eventType": f"custom_{number % 9}", "payload": {"n": number}},
        }[kind]()
        if chance.random() < 0.02:
            body["payload"] = {}
        yield {**body, "userId": user}
