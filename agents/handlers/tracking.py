"""What visitors do on pages: `page_view`, `click`, `form_submit`.

Metrics, all per UTC day:

- `page_views` (host, path): host is empty for an address that names none (`/pricing`).
- `referrers` (domain): views that came from another host than the page's own.
- `campaigns` (source, medium, campaign, term, content): views that carry a UTM source, medium or campaign, in
  the address or in `utm`, which goes first; a part that was not given is empty.
- `clicks` (element): the element, as the page names it.
- `form_submits` (form): the form, as the page names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from agents.payload_fields import (
    Unreadable,
    clean_text,
    dimension,
    first_text,
    optional_object,
    optional_text,
)
from agents.registry import Example
from agents.web_address import read_address, read_page_address, remembered
from boost_streams.events import Event
from boost_streams.outcomes import Count, Outcome, Processed, processed

FAMILY = "tracking"
EVENT_TYPES = ("page_view", "click", "form_submit")

_UTM_PARTS = ("source", "medium", "campaign", "term", "content")


def handle(event: Event) -> Outcome:
    """Count a page view, a click or a form submitted."""
    try:
        return _HANDLE[event.event_type](event.payload)
    except Unreadable as problem:
        return problem.outcome


class _Page(NamedTuple):
    """What the address of a page says: its host, the dimensions of its views, and the UTM parts of its query."""

    host: str
    dimensions: tuple[str, str]
    utm: Mapping[str, str]


def _page_view(payload: Mapping[str, Any]) -> Processed:
    page = _page(payload)
    optional_text(payload, "title")
    effects = [Count("page_views", page.dimensions)]
    domain = _referring_host(payload)
    if domain not in ("", page.host):
        effects.append(Count("referrers", (dimension(domain),)))
    campaign = _campaign(payload, page.utm)
    if any(campaign[:3]):
        effects.append(Count("campaigns", campaign))
    return Processed(tuple(effects))


def _page(payload: Mapping[str, Any]) -> _Page:
    try:
        return _read_page(first_text(payload, "url"))
    except ValueError:
        raise Unreadable.invalid("url", "must be an absolute http(s) address, or start with /") from None


@remembered
def _read_page(url: str) -> _Page:
    address = read_page_address(url)
    return _Page(address.host, (dimension(address.host), dimension(address.path)), _utm_of(address.query))


def _utm_of(query: str) -> Mapping[str, str]:
    in_url: dict[str, str] = {}
    if "utm_" in query or "%" in query:  # the name may be percent-encoded
        for name, value in parse_qsl(query):
            if name.startswith("utm_") and clean_text(value):
                in_url.setdefault(name.removeprefix("utm_"), value)
    return in_url


def _referring_host(payload: Mapping[str, Any]) -> str:
    referrer = optional_text(payload, "referrer")
    if referrer is None:
        return ""
    try:
        return read_address(referrer).host
    except ValueError:
        raise Unreadable.invalid("referrer", "must be an address") from None


def _campaign(payload: Mapping[str, Any], in_url: Mapping[str, str]) -> tuple[str, ...]:
    given = optional_object(payload, "utm")
    if not given and not in_url:
        return ()
    return tuple(dimension(_utm_part(given, part) or in_url.get(part, "")) for part in _UTM_PARTS)


def _utm_part(utm: Mapping[str, Any], part: str) -> str | None:
    try:
        return optional_text(utm, part) or optional_text(utm, f"utm_{part}")
    except Unreadable as problem:
        raise Unreadable.invalid("utm", f"{part} {problem.outcome.message}") from None


def _click(payload: Mapping[str, Any]) -> Processed:
    return processed(Count("clicks", (dimension(first_text(payload, "element", "elementId", "selector")),)))


def _form_submit(payload: Mapping[str, Any]) -> Processed:
    return processed(Count("form_submits", (dimension(first_text(payload, "form", "formId")),)))


_HANDLE = {"page_view": _page_view, "click": _click, "form_submit": _form_submit}

EXAMPLES = (
    Example("page_view", {"url": "https://shop.example/pricing?utm_source=news&utm_campaign=may"}),
    Example("page_view", {"url": "/pricing", "title": "Pricing", "referrer": "https://search.example/?q=shop"}),
    Example("page_view", {"url": "https://[2001:db8::1]:8443/", "utm": {"source": "news", "medium": "mail"}}),
    Example("page_view", {"url": "https://user:secret@bücher.example/", "referrer": None, "title": ""}),
    Example("page_view", {}, expect="url"),
    Example("page_view", {"url": 7}, expect="url"),
    Example("page_view", {"url": "pricing"}, expect="url"),
    Example("page_view", {"url": "ftp://shop.example/"}, expect="url"),
    Example("page_view", {"url": "https://[::1/"}, expect="url"),
    Example("page_view", {"url": "https://shop.example:port/"}, expect="url"),
    Example("page_view", {"url": "/", "referrer": ["https://search.example"]}, expect="referrer"),
    Example("page_view", {"url": "/", "title": 1}, expect="title"),
    Example("page_view", {"url": "/", "utm": "news"}, expect="utm"),
    Example("page_view", {"url": "/", "utm": {"source": 1}}, expect="utm"),
    Example("click", {"element": "Buy now"}),
    Example("click", {"elementId": "buy"}),
    Example("click", {"element": "", "selector": "#buy > span"}),
    Example("click", {}, expect="element"),
    Example("click", {"element": " "}, expect="element"),
    Example("click", {"elementId": {"id": "buy"}}, expect="elementId"),
    Example("form_submit", {"form": "newsletter"}),
    Example("form_submit", {"formId": "newsletter", "fields": {"topic": "news"}}),
    Example("form_submit", {"fields": {}}, expect="form"),
    Example("form_submit", {"formId": False}, expect="formId"),
)
