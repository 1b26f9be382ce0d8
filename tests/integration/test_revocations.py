"""The subscription to revocations knows at all times whether it hears."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from db.api_keys import revoke_or_explain
from db.pool import Database
from db.revocations import RevocationSubscription
from tests.support.projects import TestProject
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.waiting import eventually


class Heard:
    """A subscription through a proxy, and what it said."""

    def __init__(self, database_url: str, proxy: FaultProxy) -> None:
        there = urlsplit(database_url)
        database = Database(database_url.replace(f"{there.hostname}:{there.port}", f"127.0.0.1:{proxy.port}"))
        self.proxy = proxy
        self.hashes: list[bytes] = []
        self.lost = 0
        self.subscription = RevocationSubscription(database, self.hashes.append, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def hears(self) -> bool:
        return self.subscription.heard_since() is not None


@pytest.fixture
async def heard(database_url: str) -> AsyncIterator[Heard]:
    there = urlsplit(database_url)
    async with fault_proxy(str(there.hostname), there.port or 5432) as proxy:
        made = Heard(database_url, proxy)
        await made.subscription.start()
        yield made
        await made.subscription.stop()


async def test_it_hears_once_it_has_started(heard: Heard, database: Database, project: TestProject) -> None:
    since = heard.subscription.heard_since()
    now = heard.subscription.database_now()
    assert since is not None
    assert now is not None
    async with database.across_projects() as connection:
        assert since <= await connection.fetchval("SELECT now()")
        assert abs((now - await connection.fetchval("SELECT clock_timestamp()")).total_seconds()) < 1
    started = time.monotonic()
    revocation = await revoke_or_explain(database, project.id, project.key_id)
    await eventually(lambda: heard.hashes == [revocation.key_hash], deadline=1)
    assert time.monotonic() - started < 1
    assert heard.lost == 0


async def test_a_connection_that_freezes_without_a_word_is_noticed_within_a_second(heard: Heard) -> None:
    before = heard.subscription.heard_since()
    assert before is not None
    heard.proxy.freeze()
    await eventually(lambda: not heard.hears(), deadline=1)
    heard.proxy.thaw()
    await eventually(heard.hears, deadline=10)
    after = heard.subscription.heard_since()
    assert after is not None
    if heard.lost:  # a new connection heard nothing of what was said before it
        assert after > before


async def test_it_comes_back_after_the_server_was_away(heard: Heard, database: Database, project: TestProject) -> None:
    heard.proxy.refuse()
    heard.proxy.cut()
    await eventually(lambda: not heard.hears(), deadline=1)
    assert heard.lost == 1
    heard.proxy.refuse(False)
    await eventually(heard.hears, deadline=5)
    await revoke_or_explain(database, project.id, project.key_id)
    await eventually(lambda: len(heard.hashes) == 1, deadline=1)


async def test_it_starts_without_a_server() -> None:
    hashes: list[bytes] = []
    subscription = RevocationSubscription(
        Database("postgresql://postgres@127.0.0.1:1/none"), hashes.append, lambda: None
    )
    started = time.monotonic()
    await subscription.start()
    assert time.monotonic() - started < 2
    assert subscription.heard_since() is None
    assert subscription.database_now() is None
    await subscription.stop()


async def test_rubbish_on_the_channel_is_passed_over(heard: Heard, database: Database) -> None:
    async with database.across_projects() as connection:
        await connection.execute("SELECT pg_notify('boost_key_revoked', 'rubbish')")
        await connection.execute("SELECT pg_notify('boost_key_revoked', '00ff')")
    await eventually(lambda: heard.hashes == [b"\x00\xff"], deadline=1)
