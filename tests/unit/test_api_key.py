"""The format of API keys: made, told apart from mistyped ones, hashed, and shown only in part."""

from __future__ import annotations

import hashlib
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boost_streams.api_key import PREFIX_LENGTH, hash_key, is_well_formed, make_key, prefix_of

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = make_key("live", choose=lambda alphabet: alphabet[-1])
IMPORTED = "pk_live_" + "0123456789abcdef" * 4


@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_says_its_environment_and_is_well_formed(environment: str) -> None:
    key = make_key(environment)  # type: ignore[arg-type]
    assert re.fullmatch(rf"bst_{environment}_[0-9A-Za-z]{{36}}", key)
    assert is_well_formed(key)


def test_keys_are_live_unless_said_otherwise() -> None:
    assert make_key().startswith("bst_live_")


def test_thirty_characters_are_chosen_and_six_are_the_crc32_of_all_before_them() -> None:
    picked = iter("0123456789ABCDEFGHIJabcdefghij")
    key = make_key("test", choose=lambda alphabet: next(picked))
    assert next(picked, None) is None
    body, checksum = key[:-6], key[-6:]
    assert body == "bst_test_0123456789ABCDEFGHIJabcdefghij"
    value = 0
    for character in checksum:
        value = value * 62 + ALPHABET.index(character)
    assert value == zlib.crc32(body.encode())


def test_the_choice_is_among_62_characters() -> None:
    offered: list[str] = []

    def choose(alphabet: object) -> str:
        offered.append("".join(alphabet))  # type: ignore[arg-type]
        return "x"

    make_key(choose=choose)
    assert set(offered) == {ALPHABET}


def test_keys_differ() -> None:
    assert len({make_key() for _ in range(1000)}) == 1000


@given(st.integers(0, len(KEY) - 1), st.sampled_from(ALPHABET + "_ é"))
def test_one_mistyped_character_is_noticed(position: int, character: str) -> None:
    typed = KEY[:position] + character + KEY[position + 1 :]
    assert is_well_formed(typed) == (typed == KEY)


@pytest.mark.parametrize("position", range(9, len(KEY) - 2))
def test_two_characters_swapped_are_noticed(position: int) -> None:
    picked = iter("aB3dE5gH7jK9mN1pQ2sT4vW6yZ8cF0")
    key = make_key(choose=lambda alphabet: next(picked))
    swapped = key[:position] + key[position + 1] + key[position] + key[position + 2 :]
    assert swapped == key or not is_well_formed(swapped)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bst_live_",
        KEY[:-1],
        KEY + "0",
        KEY + "\n",
        " " + KEY,
        KEY.replace("live", "prod"),
        KEY.replace("live", "test"),
        KEY.upper(),
        "pk_live_" + "0" * 63,
        "pk_live_" + "0" * 65,
        "pk_test_" + "0" * 64,
        "pk_live_" + "g" * 64,
        IMPORTED.upper(),
        IMPORTED + "\n",
        "bst_live_" + "é" * 36,
        "bst_live_" + "\ud800" * 36,
        "bst_live_" + "٣" * 36,
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert not is_well_formed(text)


def test_imported_keys_of_the_older_shape_are_taken() -> None:
    assert is_well_formed(IMPORTED)


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    assert not is_well_formed(text)


def test_only_the_sha256_is_stored() -> None:
    assert hash_key(KEY) == hashlib.sha256(KEY.encode()).digest()
    assert len(hash_key(IMPORTED)) == 32


def test_the_prefix_shows_no_more_than_four_random_characters() -> None:
    assert PREFIX_LENGTH == 13
    assert prefix_of(KEY) == "bst_live_zzzz"
