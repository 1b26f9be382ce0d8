"""The registry: which handler takes an event type, and what a handler module must have."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from agents.handlers import FAMILIES, load_registry
from agents.registry import MAX_AGE_SECONDS, MAX_ATTEMPTS, Example, Handler, Registry
from boost_streams.outcomes import processed


def module(name: str = "video", **parts: Any) -> ModuleType:
    """Make a handler module; a part given as None is left out."""
    made = ModuleType(f"agents.handlers.{name}")
    given = {
        "FAMILY": "tracking",
        "EVENT_TYPES": ("video_play",),
        "handle": lambda event: processed(),
        "EXAMPLES": (Example("video_play", {"video": "intro"}),),
        **parts,
    }
    for part, value in given.items():
        if value is not None:
            setattr(made, part, value)
    return made


def handler(name: str = "video", **parts: Any) -> Handler:
    return Handler.of_module(module(name, **parts))


DEFAULT = handler("default", FAMILY="default", EVENT_TYPES=())


@pytest.mark.parametrize(
    ("event_type", "name", "family"),
    [
        ("page_view", "tracking", "tracking"),
        ("click", "tracking", "tracking"),
        ("form_submit", "tracking", "tracking"),
        ("user_signup", "user", "user"),
        ("user_login", "user", "user"),
        ("payment_completed", "payment", "payment"),
        ("payment_failed", "payment", "payment"),
        ("coupon_applied", "default", "default"),
        ("PAGE_VIEW", "default", "default"),
        (" page_view", "default", "default"),
    ],
)
def test_who_takes_what(event_type: str, name: str, family: str) -> None:
    registry = load_registry()
    assert registry.handler_of(event_type).name == name
    assert registry.family_of(event_type) == family


def test_a_module_becomes_a_handler() -> None:
    made = handler()
    assert (made.name, made.family, made.event_types) == ("video", "tracking", ("video_play",))
    assert made.prepare is None
    assert made.examples == (Example("video_play", {"video": "intro"}, expect="processed", user_id=None),)


def test_a_module_may_prepare_within_a_deadline() -> None:
    async def prepare(events: Any, services: Any) -> dict[Any, Any]:
        return {}

    made = handler(prepare=prepare, PREPARE_SECONDS=1.5)
    assert (made.prepare, made.prepare_seconds) == (prepare, 1.5)


@pytest.mark.parametrize("part", ["FAMILY", "EVENT_TYPES", "handle", "EXAMPLES"])
def test_a_missing_part_is_named_with_its_module(part: str) -> None:
    with pytest.raises(TypeError, match=rf"agents\.handlers\.video has no {part}"):
        handler(**{part: None})


@pytest.mark.parametrize(("part", "value"), [("EVENT_TYPES", "video_play"), ("EXAMPLES", Example("video_play", {}))])
def test_a_forgotten_comma_is_noticed(part: str, value: Any) -> None:
    """`("video_play")` is a text: its letters would each become an event type."""
    with pytest.raises(TypeError, match=f"{part} of handler module agents.handlers.video must be a tuple"):
        handler(**{part: value})


def test_two_handlers_cannot_claim_one_type() -> None:
    with pytest.raises(ValueError, match="'video_play' is claimed by both video and film"):
        Registry([handler("video"), handler("film"), DEFAULT], FAMILIES)


def test_a_type_listed_twice_by_one_handler_does_no_harm() -> None:
    twice = handler(EVENT_TYPES=("video_play", "video_play"))
    assert Registry([twice, DEFAULT], FAMILIES).handler_of("video_play") is twice


def test_a_family_must_exist() -> None:
    with pytest.raises(ValueError, match="handler video: no such family 'films'; use one of tracking, user"):
        Registry([handler(FAMILY="films"), DEFAULT], FAMILIES)


def test_there_is_one_default_handler() -> None:
    with pytest.raises(ValueError, match="no default handler"):
        Registry([handler()], FAMILIES)
    other = handler("rest", FAMILY="default", EVENT_TYPES=())
    with pytest.raises(ValueError, match="default and rest are both default handlers"):
        Registry([DEFAULT, other], FAMILIES)


def test_only_the_default_handler_does_without_types() -> None:
    with pytest.raises(ValueError, match="handler video has no EVENT_TYPES"):
        Registry([handler(EVENT_TYPES=()), DEFAULT], FAMILIES)


def test_the_default_family_may_have_handlers_of_named_types() -> None:
    named = handler(FAMILY="default")
    registry = Registry([named, DEFAULT], FAMILIES)
    assert registry.handler_of("video_play") is named
    assert registry.handler_of("anything") is DEFAULT


def test_handlers_of_other_modules_are_added() -> None:
    registry = load_registry(["tests.support.misbehaving"])
    assert registry.handler_of("misbehave").name == "misbehaving"
    assert registry.family_of("misbehave") == "payment"
    assert registry.handler_of("page_view").name == "tracking"


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ImportError, match=r"no_such"):
        load_registry(["no_such.module"])


def test_two_handlers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two handlers are called video"):
        Registry([handler(), handler(EVENT_TYPES=("video_stop",)), DEFAULT], FAMILIES)


def test_a_handler_has_limits_of_its_own_or_the_usual_ones() -> None:
    assert (handler().max_attempts, handler().max_age_seconds) == (MAX_ATTEMPTS, MAX_AGE_SECONDS)
    own = handler(MAX_ATTEMPTS=3, MAX_AGE_SECONDS=60)
    assert (own.max_attempts, own.max_age_seconds) == (3, 60.0)


@pytest.mark.parametrize("value", [0, -1, True, None, float("nan"), "60"])
@pytest.mark.parametrize("part", ["MAX_ATTEMPTS", "MAX_AGE_SECONDS"])
def test_a_limit_is_a_number_above_0(part: str, value: Any) -> None:
    limited = module()
    setattr(limited, part, value)
    with pytest.raises(TypeError, match=f"{part} of handler module agents.handlers.video must be a number above 0"):
        Handler.of_module(limited)


def test_attempts_are_whole() -> None:
    with pytest.raises(TypeError, match="MAX_ATTEMPTS"):
        handler(MAX_ATTEMPTS=1.5)


def test_a_version_is_1_unless_the_module_says() -> None:
    assert handler().version == 1
    assert handler(VERSION=3).version == 3


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", 1 << 31])
def test_a_version_is_a_whole_number_from_1(value: Any) -> None:
    with pytest.raises(TypeError, match=r"VERSION of handler module .* must be a whole number"):
        handler(VERSION=value)
