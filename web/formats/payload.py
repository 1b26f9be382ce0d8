"""What a payload may hold: an object that PostgreSQL's `jsonb` keeps exactly, nested no deeper than 64.

Nearly every payload is fine, and is looked at as bytes only: one translation maps what matters to a few characters, and
searches for fixed strings in it, which are fast, tell which payloads have to be read. They are `find`, not `in`, which
takes what it looks for as a number first, and makes an exception of each string (docs/adr/0009).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from boost_streams.errors import Invalid

#: How deep a payload may be nested.
MOST_DEPTH = 64
#: `jsonb` writes numbers out in full: 1e-16000 would come back as 16,000 digits. A double's range is enough.
LARGEST_EXPONENT = 308
_LARGEST_BITS = 1024

_KEPT = {ord(kept): ord(shown) for kept, shown in zip("eE{[", "ee[[", strict=True)} | dict.fromkeys(b"0123456789", 48)
#: Digits become 0, opening brackets [, every e of any case e, all else a blank; signs are left out.
_OUTLINE = bytes(_KEPT.get(byte, ord(" ")) for byte in range(256))
_LEFT_OUT = b"+-"
#: So many digits in a row, or an exponent of three: without either no number leaves 1e±308.
_LONG = b"0" * 100
_EXPONENT = b"0e000"
_BACKSLASH, _NUL = ord("\\"), b"\\u0000"


def _read_decimal(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > LARGEST_EXPONENT:
        raise Invalid.field("payload", f"holds a number beyond 1e±{LARGEST_EXPONENT}")
    return number


_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=_read_decimal)


def checked_payload(payload: bytes) -> bytes:
    """Return a payload that may be stored; its syntax has been checked already, as of a `msgspec.Raw`.

    Raises:
        Invalid: It is no object, nested too deeply, or holds a NUL or a number that `jsonb` does not keep.
    """
    if payload[:1] != b"{":
        raise Invalid.field("payload", "must be a JSON object")
    outline = payload.translate(_OUTLINE, _LEFT_OUT)
    has_nul = _BACKSLASH in payload and payload.find(_NUL) >= 0
    thorough = has_nul or outline.find(_LONG) >= 0 or outline.count(b"[") > MOST_DEPTH
    if thorough or outline.find(_EXPONENT) >= 0:
        value = _read(payload)
        if thorough:
            _walk(value)
    if not payload.isascii():
        _check_utf8(payload)
    return payload


def _check_utf8(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError as error:
        raise Invalid.field("payload", f"is not UTF-8: {error.reason}") from None


def _read(payload: bytes) -> Any:
    try:
        return _decoder.decode(payload)
    except RecursionError:
        raise Invalid.field("payload", f"must not be nested deeper than {MOST_DEPTH}") from None
    except ArithmeticError:
        raise Invalid.field("payload", "holds a number whose exponent is too large") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Invalid.field("payload", f"cannot be read: {error}") from None


def _walk(value: Any) -> None:
    """Look at every value of a payload, without recursion."""
    level = [value]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                for key in node:
                    _check_scalar(key)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            else:
                _check_scalar(node)
        level = below
        if not level:
            return
    if any(isinstance(node, dict | list) for node in level):
        raise Invalid.field("payload", f"must not be nested deeper than {MOST_DEPTH}")
    for node in level:
        _check_scalar(node)


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise Invalid.field("payload", "must not contain a NUL character")
    elif isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise Invalid.field("payload", f"holds a number beyond 1e±{LARGEST_EXPONENT}")
