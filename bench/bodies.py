"""The events that are sent: a mix of types from a seed, each of exactly 350 bytes of JSON."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from db.new_events import NewEvent
from web.formats.boost_json import read_event
from web.formats.client_clock import ClientClock

#: The size of one event's JSON without its messageId (bytes).
EVENT_BYTES = 350
#: How many different events the generators choose from, in turn.
DIFFERENT_EVENTS = 20_000
USERS = 10_000
_SEED = 4
#: Of a hundred events, by type: mostly what visitors do on pages, some users and payments, some unknown types.
_MIX = (
    *("page_view",) * 55,
    *("click",) * 20,
    *("form_submit",) * 5,
    *("user_login",) * 4,
    *("user_signup",) * 1,
    *("payment_completed",) * 4,
    *("payment_failed",) * 1,
    *("item_added",) * 10,
)
_FILLING = "The quick brown fox jumps over the lazy dog and keeps running until this text is as long as asked. " * 4


def event_bodies(count: int = DIFFERENT_EVENTS, seed: int = _SEED) -> list[bytes]:
    """Make events as compact JSON, each of `EVENT_BYTES` bytes; the same seed gives the same events."""
    chance = random.Random(seed)
    return [_padded(_event(chance.choice(_MIX), chance)) for _ in range(count)]


def write_bodies(path: Path, count: int = DIFFERENT_EVENTS) -> Path:
    """Write events to a file, one a line, for the load generators; return the file."""
    path.write_bytes(b"\n".join(event_bodies(count)) + b"\n")
    return path


def new_events(project_ids: list[UUID], count: int, *, message_prefix: str | None = None) -> Iterator[NewEvent]:
    """Yield `count` events as the web layer would have read them, projects in turn.

    Args:
        project_ids: Whose events they are.
        count: How many.
        message_prefix: With it every event carries a messageId: this prefix and a number.
    """
    bodies = event_bodies()
    clock = ClientClock(dt.datetime.now(dt.UTC))
    for number in range(count):
        body = bodies[number % len(bodies)]
        if message_prefix is not None:
            body = with_message_id(body, f"{message_prefix}{number:012d}")
        yield read_event(body, project_ids[number % len(project_ids)], clock, 65_536)


def with_message_id(body: bytes, message_id: str) -> bytes:
    """Add a messageId to the JSON of an event."""
    return body[:-1] + f',"messageId":"{message_id}"}}'.encode()


def _padded(event: dict[str, Any]) -> bytes:
    event["payload"]["note"] = ""
    missing = EVENT_BYTES - len(_as_json(event))
    event["payload"]["note"] = _FILLING[:missing]
    body = _as_json(event)
    assert len(body) == EVENT_BYTES, body
    return body


def _as_json(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _event(event_type: str, chance: random.Random) -> dict[str, Any]:
    user = chance.randrange(USERS)
    payload = {**_payload(event_type, user, chance), "locale": chance.choice(("en-GB", "de-DE", "fr-FR"))}
    return {
        "eventType": event_type,
        "payload": payload,
        "userId": f"user-{user}",
        "sessionId": f"session-{chance.randrange(10**9):09d}",
    }


def _payload(event_type: str, user: int, chance: random.Random) -> dict[str, Any]:
    if event_type == "page_view":
        campaign = f"?utm_source=s{chance.randrange(3)}&utm_medium=mail" if chance.random() < 0.3 else ""
        return {
            "url": f"https://shop.example/p/{chance.randrange(60)}{campaign}",
            "referrer": "https://search.example/",
        }
    if event_type == "click":
        return {"element": f"button-{chance.randrange(30)}"}
    if event_type == "form_submit":
        return {"form": f"form-{chance.randrange(5)}"}
    if event_type in ("user_login", "user_signup"):
        return {"email": f"user-{user}@example.org", "traits": {"plan": f"plan-{user % 4}"}}
    if event_type == "payment_completed":
        return {"amount": f"{chance.randrange(500)}.25", "currency": chance.choice(("EUR", "USD", "JPY"))}
    if event_type == "payment_failed":
        return {"reason": f"reason-{chance.randrange(4)}"}
    return {"item": chance.randrange(1000), "quantity": chance.randrange(1, 5)}
