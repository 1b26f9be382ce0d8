"""Reading web addresses that browsers and strangers send: host, path and query, and never a password."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar
from urllib.parse import urlsplit

#: What no host name holds: the forbidden host code points of the URL standard (url.spec.whatwg.org, 3.1).
_FORBIDDEN_IN_HOST = re.compile(r'[\x00-\x20"#%/:<>?@\[\\\]^`{|}\x7f]')

#: Of how many texts the answers are kept, and up to which length (characters): a few MiB at most.
_MOST_KEPT = 4096
_LONGEST_KEPT = 512

_Answer = TypeVar("_Answer")

_BRACKETED = re.compile(r"\[[^\]]*\](:[0-9]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WebAddress:
    """The parts of an address that are counted.

    `host` is in lower case, without user, password, port, brackets or final dot; empty when the address names
    none. `path` is as it was sent (percent-encoded), `/` when empty; `query` comes without its `?`.
    """

    scheme: str
    host: str
    path: str
    query: str


def remembered(read: Callable[[str], _Answer]) -> Callable[[str], _Answer]:
    """Keep what a pure function said of the short texts it saw last: pages are viewed again and again."""
    known = lru_cache(maxsize=_MOST_KEPT)(read)

    @wraps(read)
    def answer(text: str) -> _Answer:
        return known(text) if len(text) <= _LONGEST_KEPT else read(text)

    return answer


@remembered
def read_address(text: str) -> WebAddress:
    """Read an address, absolute or relative.

    Raises:
        ValueError: It cannot be read: a broken IPv6 address, a port that is none, a host that is none.
    """
    parts = urlsplit(text)
    host = ""
    if parts.netloc:
        _ = parts.port  # raises when it is no port
        host = _host(parts.netloc.rpartition("@")[2], parts.hostname or "")
    return WebAddress(parts.scheme, host, parts.path or "/", parts.query)


def read_page_address(text: str) -> WebAddress:
    """Read the address of a page: absolute http(s), or starting with `/`.

    Raises:
        ValueError: It is neither, or cannot be read.
    """
    address = read_address(text)
    if address.scheme in ("http", "https") and address.host:
        return address
    if address.scheme == "" and text.startswith("/"):
        return address
    raise ValueError("neither an absolute http(s) address nor a path")


def _host(authority: str, name: str) -> str:
    if authority.startswith("["):
        if not _BRACKETED.fullmatch(authority):
            raise ValueError("something follows the bracket that is no port")
        return ipaddress.IPv6Address(name).compressed
    host = name.lower().rstrip(".")
    if not host or _FORBIDDEN_IN_HOST.search(host):
        raise ValueError("not a host")
    return host
