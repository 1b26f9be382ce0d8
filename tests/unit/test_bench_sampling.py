"""Samples of a worker's event loop are told apart by what is on the stack."""

from __future__ import annotations

import pytest

from bench.sampling import RATE, by_part, shares

_ABOVE = "thread (7): MainThread;<module> (faust/__main__.py:6);Worker.execute_from_commandline (mode/worker.py:264)"


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        ("FastConnection.data_received (web/fast_connection.py:73);FastPath.submit (web/fast_path.py:92)", "http"),
        ("RequestHandler.start (aiohttp/web_protocol.py:600);accept_batch (web/ingest_batch.py:40)", "http"),
        ("Committer.run (web/commit.py:60);Connection.fetchval (asyncpg/connection.py:1)", "commit"),
        (
            "Committer._commit (web/commit.py:9);FastPath._answer (web/fast_path.py:9)",
            "http",
        ),
        ("Outbox._send (web/outbox.py:83);RecordCodec.encode (boost_streams/records.py:134)", "produce"),
        ("HandlerLoop.run (agents/handling.py:67);HandlerLoop.handle (agents/handling.py:78)", "handle"),
        ("_as_task (agents/streams.py:127);Settlement.settle (agents/settlement.py:75)", "settle"),
        ("Agent.x (faust/agents/agent.py:6);Dispatcher.split (agents/dispatcher.py:90)", "dispatch"),
        ("Service._execute_task (mode/services.py:8);Fetcher._fetcher (faust/transport/consumer.py:177)", "read"),
    ],
)
def test_a_stack_belongs_to_a_part(frames: str, part: str) -> None:
    seconds = by_part([f"{_ABOVE};{frames} {2 * RATE}"])
    assert {name: spent for name, spent in seconds.items() if spent} == {part: 2.0}


def test_the_loop_itself_and_other_threads_are_no_part() -> None:
    other = _ABOVE.replace("MainThread", "Thread-1") + ";Outbox._send (web/outbox.py:83) 5"
    assert not any(by_part([f"{_ABOVE} 100", other]).values())


def test_a_whole_is_divided_as_the_samples_are() -> None:
    assert shares({"http": 3.0, "commit": 1.0}, 40.0) == {"http_us": 30.0, "commit_us": 10.0}
    assert shares({"http": 0.0}, 40.0) == {"http_us": 0.0}
