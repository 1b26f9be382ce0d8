"""How many events a commit takes, and how many it waits for."""

from __future__ import annotations

from uuid import uuid4

from db.intake import NewEvent
from web.waiting import MOST_EVENTS, Submission, WaitingList
from web.wave import Wave


def test_a_whole_wave_is_waited_for_and_a_commit_takes_what_there_is() -> None:
    wave = Wave()
    wave.look(64, 64)
    assert wave.worth_waiting_for == 64
    assert wave.most == MOST_EVENTS


def test_half_of_a_wave_is_waited_for_and_taken() -> None:
    wave = Wave(in_halves=True)
    wave.look(65, 65)
    assert wave.worth_waiting_for == 32.5
    assert wave.most == 33


def test_a_small_wave_is_not_cut() -> None:
    wave = Wave(in_halves=True)
    wave.look(15, 15)
    assert wave.worth_waiting_for == 15
    assert wave.most == MOST_EVENTS


def test_a_wave_of_few_requests_with_many_events_is_not_cut() -> None:
    wave = Wave(in_halves=True)
    wave.look(400, 4)
    assert wave.worth_waiting_for == 400
    assert wave.most == MOST_EVENTS


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
