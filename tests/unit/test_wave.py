"""How many events a commit takes, and how many it waits for."""

from __future__ import annotations

from uuid import uuid4

import pytest

from db.new_events import NewEvent
from web.waiting import MOST_EVENTS, MOST_EVENTS_OF_MANY, Submission, WaitingList
from web.wave import Wave


@pytest.mark.parametrize(
    ("takes_in_only", "events", "requests", "worth_waiting_for", "most"),
    [
        pytest.param(False, 64, 64, 64, MOST_EVENTS, id="whole"),
        pytest.param(True, 65, 65, 32.5, 33, id="half"),
        pytest.param(True, 15, 15, 15, MOST_EVENTS, id="a small wave is not cut"),
        pytest.param(True, 400, 4, 400, MOST_EVENTS, id="nor are few requests with many events"),
        pytest.param(True, 2_000, 20, MOST_EVENTS, 500, id="many events"),
        pytest.param(True, 2_400, 24, MOST_EVENTS, 600, id="a share of very many"),
        pytest.param(True, 2_500, 1, MOST_EVENTS, 625, id="a share of very many in one request"),
        pytest.param(False, 2_400, 24, MOST_EVENTS, MOST_EVENTS, id="very many, of a worker that settles too"),
    ],
)
def test_what_a_commit_takes_and_waits_for(
    takes_in_only: bool, events: int, requests: int, worth_waiting_for: float, most: int
) -> None:
    wave = Wave(takes_in_only=takes_in_only)
    wave.look(events, requests)
    assert (wave.worth_waiting_for, wave.most) == (worth_waiting_for, most)


def test_no_commit_exceeds_its_bound() -> None:
    for takes_in_only in (False, True):
        wave = Wave(takes_in_only=takes_in_only)
        wave.look(5_000, 5_000)
        assert wave.worth_waiting_for == MOST_EVENTS
        assert wave.most == (MOST_EVENTS_OF_MANY if takes_in_only else MOST_EVENTS)


@pytest.mark.parametrize(
    ("takes_in_only", "requests", "beside_from"),
    [(True, 0, 200), (True, 15, 200), (True, 16, MOST_EVENTS), (False, 8, MOST_EVENTS)],
)
def test_few_requests_have_a_commit_beside_another_sooner(takes_in_only: bool, requests: int, beside_from: int) -> None:
    wave = Wave(takes_in_only=takes_in_only)
    wave.look(800, requests)
    assert wave.beside_from == beside_from


def test_a_peak_is_forgotten() -> None:
    wave = Wave(takes_in_only=True)
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
