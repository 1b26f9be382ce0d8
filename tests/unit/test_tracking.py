"""Page views, clicks and forms in detail; what holds for every handler is in the contract test."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest

from agents.handlers import tracking
from agents.payload_fields import MAX_DIMENSION
from boost_streams.events import Event
from boost_streams.outcomes import Count, Failed, Outcome, Processed

NOON = dt.datetime(2026, 5, 4, 12, 0, tzinfo=dt.UTC)


def handle(event_type: str, **payload: Any) -> Outcome:
    return tracking.handle(Event(UUID(int=1), UUID(int=2), event_type, NOON, NOON, payload))


def counts(outcome: Outcome) -> dict[str, tuple[str, ...]]:
    assert isinstance(outcome, Processed), outcome
    assert all(isinstance(effect, Count) and effect.bucket == "day" for effect in outcome.effects)
    return {effect.metric: effect.dimensions for effect in outcome.effects if isinstance(effect, Count)}


def failure(outcome: Outcome) -> tuple[str, str | None]:
    assert isinstance(outcome, Failed), outcome
    return outcome.code, outcome.field


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://shop.example/pricing?plan=pro#faq", "shop.example", "/pricing"),
        ("HTTPS://Shop.Example", "shop.example", "/"),
        ("https://shop.example.:443/", "shop.example", "/"),
        ("https://shop.example?x=1", "shop.example", "/"),
        ("  https://shop.example/a  ", "shop.example", "/a"),
        ("https://ada:secret@shop.example:8443/a", "shop.example", "/a"),
        ("https://a@b@shop.example/", "shop.example", "/"),
        ("https://[2001:DB8:0::1]:8443/a", "2001:db8::1", "/a"),
        ("https://Bücher.example/", "bücher.example", "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
        ("http://localhost:3000/a", "localhost", "/a"),
        ("https://shop.example/%C3%A9t%C3%A9", "shop.example", "/%C3%A9t%C3%A9"),
        ("/pricing?plan=pro", "", "/pricing"),
        ("/", "", "/"),
        ("//shop.example/a", "shop.example", "/a"),
        ("/a\x00b", "", "/a b"),
    ],
)
def test_a_page_view_counts_per_host_and_path(url: str, host: str, path: str) -> None:
    assert counts(handle("page_view", url=url)) == {"page_views": (host, path)}


@pytest.mark.parametrize(
    "url",
    [
        "pricing",
        "shop.example/pricing",
        "localhost:3000/a",
        "ftp://shop.example/",
        "javascript:alert(1)",
        "https:///pricing",
        "https://:443/",
        "https://ada@/",
        "https://[::1/",
        "https://[::1]x/",
        "https://[v1.x]/",
        "https://[localhost]/",
        "https://shop.example:port/",
        "https://shop.example:99999/",
        "https://shop.example:-1/",
        "https://shop example/",
        "https://<script>/",
        "https://./",
        "https://ho℀st/",
        "//[::1",
        5,
        True,
        ["/"],
        {"href": "/"},
    ],
)
def test_an_unreadable_url_fails_and_is_named(url: Any) -> None:
    assert failure(handle("page_view", url=url)) == ("invalid", "url")


@pytest.mark.parametrize("payload", [{}, {"url": None}, {"url": ""}, {"url": " \x00 "}])
def test_a_page_view_needs_a_url(payload: dict[str, Any]) -> None:
    assert failure(handle("page_view", **payload)) == ("missing", "url")


@pytest.mark.parametrize(
    ("referrer", "domain"),
    [
        ("https://Search.example/?q=shop", "search.example"),
        ("https://ada:secret@search.example:8443/", "search.example"),
        ("android-app://com.search.example/", "com.search.example"),
        ("https://[2001:db8::1]/", "2001:db8::1"),
        ("https://shop.example/other", None),
        ("https://SHOP.example:8443/other", None),
        ("https://www.shop.example/", "www.shop.example"),
        ("/other", None),
        ("about:blank", None),
        ("", None),
        (None, None),
    ],
)
def test_a_referrer_counts_when_it_is_another_host(referrer: str | None, domain: str | None) -> None:
    found = counts(handle("page_view", url="https://shop.example/", referrer=referrer))
    assert found.get("referrers") == (None if domain is None else (domain,))


def test_every_referring_host_counts_for_a_page_without_one() -> None:
    found = counts(handle("page_view", url="/pricing", referrer="https://search.example/"))
    assert found["referrers"] == ("search.example",)


@pytest.mark.parametrize("referrer", ["https://[::1", "https://search.example:port/", 5, [], {}])
def test_an_unreadable_referrer_fails_and_is_named(referrer: Any) -> None:
    assert failure(handle("page_view", url="/", referrer=referrer)) == ("invalid", "referrer")


@pytest.mark.parametrize(
    ("query", "utm", "campaign"),
    [
        ("", None, None),
        ("?utm_source=news", None, ("news", "", "", "", "")),
        ("?utm_campaign=May%20sale", None, ("", "", "May sale", "", "")),
        (
            "?utm_source=a&utm_medium=b&utm_campaign=c&utm_term=d&utm_content=e",
            None,
            ("a", "b", "c", "d", "e"),
        ),
        ("?utm_source=first&utm_source=second", None, ("first", "", "", "", "")),
        ("?utm_source=&utm_source=second", None, ("second", "", "", "", "")),
        ("?utm_source=%00&utm_medium=", None, None),
        ("?utm_term=shoes", None, None),
        ("?utm_id=7&utm_=x&source=news", None, None),
        ("", {"source": "news", "medium": "mail"}, ("news", "mail", "", "", "")),
        ("", {"utm_source": "news"}, ("news", "", "", "", "")),
        ("?utm_source=a&utm_medium=b", {"source": "c", "medium": None}, ("c", "b", "", "", "")),
        ("", {}, None),
        ("", {"source": "  "}, None),
    ],
)
def test_campaigns(query: str, utm: Any, campaign: tuple[str, ...] | None) -> None:
    found = counts(handle("page_view", url=f"https://shop.example/{query}", utm=utm))
    assert found.get("campaigns") == campaign


@pytest.mark.parametrize("utm", ["news", 5, ["news"], {"source": 1}, {"utm_term": ["x"]}])
def test_an_unreadable_utm_fails_and_is_named(utm: Any) -> None:
    assert failure(handle("page_view", url="/?utm_source=news", utm=utm)) == ("invalid", "utm")


def test_the_failure_says_which_part_of_utm() -> None:
    outcome = handle("page_view", url="/", utm={"medium": 5})
    assert isinstance(outcome, Failed)
    assert outcome.message == "medium must be a text, not a number"


@pytest.mark.parametrize("title", [5, False, ["Pricing"], {}])
def test_a_title_is_a_text(title: Any) -> None:
    assert failure(handle("page_view", url="/", title=title)) == ("invalid", "title")


@pytest.mark.parametrize(
    ("event_type", "metric", "fields"),
    [
        ("click", "clicks", ("element", "elementId", "selector")),
        ("form_submit", "form_submits", ("form", "formId")),
    ],
)
class TestClicksAndForms:
    def test_any_of_the_fields_will_do(self, event_type: str, metric: str, fields: tuple[str, ...]) -> None:
        for field in fields:
            assert counts(handle(event_type, **{field: " buy "})) == {metric: ("buy",)}

    def test_the_first_that_says_something_counts(self, event_type: str, metric: str, fields: tuple[str, ...]) -> None:
        assert counts(handle(event_type, **{field: field for field in fields})) == {metric: (fields[0],)}
        blank_first = {fields[0]: "\x00 ", fields[-1]: "buy"}
        assert counts(handle(event_type, **blank_first)) == {metric: ("buy",)}

    def test_one_is_needed(self, event_type: str, metric: str, fields: tuple[str, ...]) -> None:
        for payload in ({}, {fields[0]: None}, dict.fromkeys(fields, "")):
            assert failure(handle(event_type, **payload)) == ("missing", fields[0])

    def test_the_one_of_another_type_is_named(self, event_type: str, metric: str, fields: tuple[str, ...]) -> None:
        for field in fields:
            assert failure(handle(event_type, **{fields[0]: "buy", field: 5})) == ("invalid", field)


def test_dimensions_are_cut_and_never_end_up_blank() -> None:
    long = "x" * 1000
    assert counts(handle("click", element=long)) == {"clicks": ("x" * MAX_DIMENSION,)}
    host, path = counts(handle("page_view", url=f"https://{long}/{long}"))["page_views"]
    assert (len(host), len(path)) == (MAX_DIMENSION, MAX_DIMENSION)
    assert counts(handle("click", element=" " * 1000 + "buy")) == {"clicks": ("buy",)}


def test_no_part_of_a_password_is_counted() -> None:
    outcome = handle(
        "page_view", url="https://ada:secret@shop.example/a", referrer="https://ada:secret@search.example/"
    )
    assert "secret" not in repr(outcome)
    assert "ada" not in repr(outcome)
