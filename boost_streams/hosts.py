"""Which hosts an address names, and whether one of them is this machine, in any spelling."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from urllib.parse import parse_qs, unquote, urlsplit

#: What the `hosts` files of the usual systems give the loopback addresses, besides sub-domains of localhost.
_OWN_NAMES = ("localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: Parameters of a URL whose values are numbers, to libpq or to redis-py.
_SECONDS = ("connect_timeout", "socket_timeout", "socket_connect_timeout", "health_check_interval", "max_connections")
_NUMBER = re.compile(r"0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*", re.ASCII)


def brokers_of(value: str) -> list[str]:
    """Split a list of brokers (commas or semicolons, `kafka://` optional) into `host:port` texts."""
    parts = [part.strip() for part in value.replace(";", ",").split(",")]
    return [re.sub(r"^[A-Za-z+]+://", "", part).rstrip("/") for part in parts if part]


def hosts_of_url(url: str) -> list[str]:
    """List every host that a database or Redis URL names; a Unix socket stands as its path.

    A place in a list that is left empty (`db-1,:5433`) stands for `localhost`, as the drivers take it.

    Raises:
        ValueError: The URL cannot be read. The message says nothing of what it holds.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("not a readable URL") from None  # urlsplit's own message may quote a password
    if parts.scheme == "unix":
        return [parts.path or "/"]
    query = parse_qs(parts.query)
    lists = [unquote(parts.netloc.rpartition("@")[2])]
    lists += [value for name in ("host", "hostaddr") for value in query.get(name, [])]
    hosts = [_without_port(part) or "localhost" for names in lists if names for part in names.split(",")]
    return hosts or ["localhost"]


def url_detail_problem(url: str) -> str | None:
    """Say what is wrong with the port or the query of a database or Redis URL that can be split; None when nothing is.

    The words quote nothing of the URL.
    """
    parts = urlsplit(url)
    for host in unquote(parts.netloc.rpartition("@")[2]).split(",") if parts.scheme != "unix" else ():
        port = host.rpartition("]")[2].partition(":")[2]
        if ":" in host.rpartition("]")[2] and not (_PORT.fullmatch(port) and 0 < int(port) < 65536):
            return "has a port that is no number from 1 to 65535"
    query = parse_qs(parts.query)
    if any(mode not in _SSL_MODES for mode in query.get("sslmode", [])):
        return f"has an sslmode that is not one of {', '.join(_SSL_MODES)}"
    for name in _SECONDS:
        if any(not _DECIMAL.fullmatch(value) for value in query.get(name, [])):
            return f"has a {name} that is no number"
    return None


def _without_port(host: str) -> str:
    if host.startswith("/"):
        return host
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_this_machine(host: str) -> bool:
    """Tell whether a host is this machine.

    Counts: localhost with or without a dot or sub-domain, 127.0.0.0/8 in dotted, decimal, hexadecimal or
    octal notation, ::1, IPv4-mapped addresses, 0.0.0.0, ::, and the path of a Unix socket. Full-width letters
    and dots count as the plain ones, because resolvers fold them (IDNA, RFC 3490).
    """
    folded = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    name = folded.strip().strip("[]").lower().partition("%")[0]
    if name.startswith(("/", "@")) or name == "":
        return True
    name = name.rstrip(".")
    if name in _OWN_NAMES or name.endswith((".localhost", ".localdomain")) or name.startswith("localhost."):
        return True
    address = _address(name)
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" in name:
        try:
            return ipaddress.IPv6Address(name)
        except ValueError:
            return None
    return _loose_ipv4(name)


def _loose_ipv4(name: str) -> ipaddress.IPv4Address | None:
    """Read an IPv4 address as `inet_aton(3)` does: one to four parts, each decimal, 0x… or 0…."""
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    numbers = [_number(part) for part in parts]
    *heads, last = numbers
    if any(number > 255 for number in heads) or last >= 256 ** (5 - len(numbers)):
        return None
    value = last
    for position, number in enumerate(heads):
        value += number << (8 * (3 - position))
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part, 16)
    return int(part, 8) if part.startswith("0") and len(part) > 1 else int(part)
