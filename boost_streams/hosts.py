"""Which hosts an address names, and whether one of them is this machine, in any spelling."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import parse_qs, unquote, urlsplit

_NUMBER = re.compile(r"0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*", re.ASCII)


def brokers_of(value: str) -> list[str]:
    """Split a list of brokers (commas or semicolons, `kafka://` optional) into `host:port` texts."""
    parts = [part.strip() for part in value.replace(";", ",").split(",")]
    return [re.sub(r"^[a-z+]+://", "", part).rstrip("/") for part in parts if part]


def hosts_of_url(url: str) -> list[str]:
    """List every host that a database or Redis URL names; a Unix socket stands as its path."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return [parts.path or "/"]
    authority = parts.netloc.rpartition("@")[2]
    hosts = [_without_port(unquote(part)) for part in authority.split(",")]
    for values in (parse_qs(parts.query).get(name, []) for name in ("host", "hostaddr")):
        for value in values:
            hosts.extend(_without_port(part) for part in value.split(","))
    named = [host for host in hosts if host]
    return named or ["localhost"]


def _without_port(host: str) -> str:
    if host.startswith("/"):
        return host
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_this_machine(host: str) -> bool:
    """Tell whether a host is this machine.

    Counts: localhost with or without a dot or sub-domain, 127.0.0.0/8 in dotted, decimal, hexadecimal or octal
    notation, ::1, IPv4-mapped addresses, 0.0.0.0, ::, and the path of a Unix socket.
    """
    name = host.strip().strip("[]").lower().partition("%")[0]
    if name.startswith(("/", "@")) or name == "":
        return True
    name = name.rstrip(".")
    if name == "localhost" or name.endswith((".localhost", ".localdomain")) or name.startswith("localhost."):
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
