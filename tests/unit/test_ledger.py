"""The number a heartbeat tells is the one up to which every publish is accounted for."""

from __future__ import annotations

from uuid import UUID

from boost_streams.ledger import Ledger


def test_published_seq_stops_before_the_first_open_number() -> None:
    ledger = Ledger(UUID(int=1), "host", "http://host", ("web",))
    assert ledger.published_seq == 0
    first, second, third = ledger.open(), ledger.open(), ledger.open()
    assert ledger.published_seq == 0
    ledger.close(second)
    assert ledger.published_seq == 0
    ledger.close(first)
    assert ledger.published_seq == second
    ledger.close(third)
    ledger.close(third)
    assert ledger.published_seq == third
    assert ledger.open_count == 0
