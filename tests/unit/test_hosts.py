"""Which hosts an address names, and whether one of them is this machine, however it is spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boost_streams.hosts import brokers_of, hosts_of_url, is_this_machine


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "db.localhost",
        "db.localhost.",
        "localhost.localdomain",
        "localhost.example.com",  # by custom, a name of 127.0.0.1
        "localhost6",
        "ip6-localhost",
        "ip6-loopback",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.255.255.254",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7F.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "0x0",
        "::1",
        "[::1]",
        "0:0:0:0:0:0:0:1",
        "::1%lo",
        "::",
        "[::]",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:0.0.0.0",
        "/var/run/postgresql",
        "@abstract",
        "",
        " localhost ",
        "ｌｏｃａｌｈｏｓｔ",
        "１２７。0。0。1",
    ],
)
def test_every_spelling_of_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    [
        "db",
        "db.example.com",
        "mylocalhost",
        "localhosts",
        "10.0.0.5",
        "128.0.0.1",
        "126.255.255.255",
        "1.2.3",
        "0x80000001",
        "127.0.0.256",
        "127.0.0.0.1",
        "0189.0.0.1",
        "2001:db8::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.5",
        "::2",
        ":::",
        "127",  # as inet_aton(3) reads it: 0.0.0.127
    ],
)
def test_other_machines(host: str) -> None:
    assert not is_this_machine(host)


@given(st.text())
def test_any_text_can_be_asked_about(host: str) -> None:
    is_this_machine(host)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://user:password@db.example:5432/boost", ["db.example"]),
        ("postgresql://db.example", ["db.example"]),
        ("postgresql://db-1:5432,db-2:5433/boost", ["db-1", "db-2"]),
        ("postgresql://db-1,:5433/boost", ["db-1", "localhost"]),
        ("postgresql://[2001:db8::1]:5432/boost", ["2001:db8::1"]),
        ("postgresql://[::1],db-2/boost", ["::1", "db-2"]),
        ("postgresql://user:p%40ss@db/boost", ["db"]),
        ("postgresql://user:a@b@db/boost", ["db"]),
        ("postgresql://%2Fvar%2Frun/boost", ["/var/run"]),
        ("postgresql:///boost", ["localhost"]),
        ("postgresql://user@/boost", ["localhost"]),
        ("postgresql://:5432/boost", ["localhost"]),
        ("postgresql:///boost?host=/var/run", ["/var/run"]),
        ("postgresql:///boost?host=db-1,db-2:5433", ["db-1", "db-2"]),
        ("postgresql://db-1/boost?hostaddr=127.0.0.1", ["db-1", "127.0.0.1"]),
        ("postgresql://db-1/boost?host=db-2&host=localhost", ["db-1", "db-2", "localhost"]),
        ("redis://:password@redis.example:6379/0", ["redis.example"]),
        ("rediss://redis.example", ["redis.example"]),
        ("redis:///0", ["localhost"]),
        ("unix:///var/run/redis.sock", ["/var/run/redis.sock"]),
        ("unix://", ["/"]),
    ],
)
def test_every_host_of_a_url(url: str, hosts: list[str]) -> None:
    assert hosts_of_url(url) == hosts


@pytest.mark.parametrize("url", ["postgresql://user:secret@[::1/boost", "redis://user:secret@ho℀st/0"])
def test_an_unreadable_url_says_nothing_of_what_it_holds(url: str) -> None:
    with pytest.raises(ValueError, match=r"^not a readable URL$"):
        hosts_of_url(url)


@pytest.mark.parametrize(
    ("value", "brokers"),
    [
        ("kafka-1:9092", ["kafka-1:9092"]),
        ("kafka-1:9092,kafka-2:9092", ["kafka-1:9092", "kafka-2:9092"]),
        (" kafka-1:9092 ; kafka-2:9092 ,", ["kafka-1:9092", "kafka-2:9092"]),
        ("kafka://kafka-1:9092;kafka://kafka-2:9092/", ["kafka-1:9092", "kafka-2:9092"]),
        ("KAFKA://kafka-1:9092", ["kafka-1:9092"]),
        ("kafka+ssl://kafka-1:9092", ["kafka-1:9092"]),
        ("[::1]:9092", ["[::1]:9092"]),
        (" , ;", []),
        ("", []),
    ],
)
def test_brokers(value: str, brokers: list[str]) -> None:
    assert brokers_of(value) == brokers
