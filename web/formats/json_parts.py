"""Splits a JSON array or object into its parts without reading them, so that a broken part costs only itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

import msgspec

from boost_streams.errors import MalformedJson

#: A whole string, a quote that nothing closes, or what structures the text.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_MEMBER = re.compile(rb'\s*+("(?:[^"\\]++|\\.)*+")\s*+:\s*+', re.DOTALL)
#: More brackets, commas and strings than this have no events between them: to go on would only take time.
MOST_TOKENS = 1_000_000
_OPENING, _CLOSING = frozenset(b"[{"), {ord("]"): ord("["), ord("}"): ord("{")}
_QUOTE, _COMMA = ord('"'), ord(",")


def array_parts(text: bytes) -> Iterator[bytes]:
    """Yield what stands between the commas of an array, one after the other; it need not be JSON.

    Args:
        text: The array, from its opening to its closing bracket.

    Raises:
        MalformedJson: It does not end where its bracket closes, or a string in it is not closed.
    """
    return _parts(text)


def object_members(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and values of an object, from its opening to its closing brace; values need not be JSON.

    Raises:
        MalformedJson: It does not end where its brace closes, or a member has no name.
    """
    for part in _parts(text):
        member = _MEMBER.match(part)
        try:
            name = msgspec.json.decode(member[1] if member else b"", type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MalformedJson("the body is not JSON: a member of the object has no name") from None
        yield name, part[member.end() if member else 0 :].rstrip()


def _parts(text: bytes) -> Iterator[bytes]:
    depth, begin = 0, 1
    for token in islice(_TOKEN.finditer(text), MOST_TOKENS):
        at = token.start()
        kind = text[at]
        if kind == _QUOTE:
            if token.end() - at == 1:
                raise MalformedJson(f"the body is not JSON: the string at byte {at} is not closed")
        elif kind in _OPENING:
            depth += 1
        elif kind == _COMMA:
            if depth == 1:
                yield text[begin:at]
                begin = at + 1
        else:
            depth -= 1
            if depth == 0:
                if _CLOSING[kind] != text[0] or text[at + 1 :].strip():
                    break
                if begin > 1 or text[begin:at].strip():
                    yield text[begin:at]
                return
    raise MalformedJson("the body is not JSON: it does not end where it should")
