"""How many events a commit takes, and how many it waits for."""

from __future__ import annotations

from uuid import uuid4

import pytest

from db.new_events import NewEvent
from web.waiting import MOST_EVENTS, Submission, WaitingList
from web.wave import Wave


@pytest.mark.parametrize(
    ("in_halves", "events", "requests", "worth_waiting_for", "most"),
    [
        pytest.param(False, 64, 64, 64, MOST_EVENTS, id="whole"),
        pytest.param(True, 65, 65, 32.5, 33, id="half"),
        pytest.param(True, 15, 15, 15, MOST_EVENTS, id="a small wave is not cut"),
        pytest.param(True, 400, 4, 400, MOST_EVENTS, id="nor are few requests with many events"),
    ],
)
def test_what_a_commit_takes_and_waits_for(
    in_halves: bool, events: int, requests: int, worth_waiting_for: float, most: int
) -> None:
    wave = Wave(in_halves=in_halves)
    wave.look(events, requests)
    assert (wave.worth_waiting_for, wave.most) == (worth_waiting_for, most)


def test_no_commit_exceeds_its_bound() -> None:
    for in_halves in (False, True):
        wave = Wave(in_halves=in_halves)
        wave.look(5_000, 5_000)
        assert wave.worth_waiting_for == MOST_EVENTS
        assert wave.most == MOST_EVENTS


def test_a_peak_is_forgotten() -> None:
    wave = Wave(in_halves=True)
    wave.look(400, 400)
    for _ in range(100):
        wave.look(20, 20)
    assert wave.most == 10


def test_a_commit_takes_the_beginning_of_a_request_that_is_too_large_for_it() -> None:
    waiting = WaitingList()
    events = [NewEvent(uuid4(), "x", b"{}")] * 5
    waiting.append(Submission(events, lambda *_: None, 0.0))
    assert [(part.first, part.end) for part in waiting.take(3)] == [(0, 3)]
    assert [(part.first, part.end) for part in waiting.take(3)] == [(3, 5)]
