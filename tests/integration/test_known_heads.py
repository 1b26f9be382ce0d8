"""Requests whose heads were read before are not parsed, and are answered as if they were."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator

import pytest

from boost_streams.api_key import hash_key
from boost_streams.settings import Settings
from db.pool import Database
from tests.support.fast_path import (
    CASES,
    EVENT,
    Case,
    Site,
    comparable,
    connect,
    exchange,
    read_answer,
    request,
    serving,
)
from tests.support.projects import TestProject

_OTHER_BODIES = [case for case in CASES if set(case.options) <= {"event", "body"}]


@pytest.fixture
async def site(settings: Settings, database: Database, project: TestProject) -> AsyncIterator[Site]:
    """A server that knows the head of `request(project)`."""
    async with serving(settings, database) as site:
        for _ in range(2):  # the first time the key is not known yet
            await exchange(site, request(project))
        assert (site.path.taken, site.path.unparsed) == (1, 0)
        yield site


def event_of(length: int) -> dict[str, object]:
    return {"eventType": "x", "payload": {"text": "a" * length}}


async def stored(database: Database) -> int:
    async with database.across_projects() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM events")
    return count


async def talk(site: Site, *pieces: bytes, answers: int = 1) -> list[bytes]:
    """Send pieces on a connection, each a segment of its own; return the answers."""
    reader, writer = await connect(site)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.02)
    found = [await read_answer(reader) for _ in range(answers)]
    writer.close()
    return found


@pytest.mark.parametrize("case", _OTHER_BODIES, ids=lambda case: case.name)
async def test_a_known_head_is_answered_alike_whatever_its_body(site: Site, project: TestProject, case: Case) -> None:
    if "messageId" in case.options.get("event", {}):
        await exchange(site, request(project, {**EVENT, "messageId": "m"}), in_two=True)
    sent = request(project, **case.options)
    fast = await exchange(site, sent)
    assert site.path.unparsed == case.taken
    slow = await exchange(site, sent, in_two=bool(case.options.get("body", b"x")))
    assert site.path.unparsed == case.taken
    assert comparable(fast) == comparable(slow)
    assert site.intake.budget.used == 0


async def test_a_head_is_known_whatever_the_length_and_on_every_connection(site: Site, project: TestProject) -> None:
    for length in (0, 1, 70, 700, 7000):
        (answer,) = await talk(site, request(project, event_of(length)))
        assert answer.startswith(b"HTTP/1.1 202 ")
    assert site.path.unparsed == 5


async def test_the_head_of_a_batch_is_known_as_that_of_a_batch(
    site: Site, project: TestProject, database: Database
) -> None:
    batch = request(project, [EVENT, EVENT], target="/events/batch")
    first, second, other = [
        (await talk(site, sent))[0] for sent in (batch, batch, request(project, EVENT, target="/events/batch"))
    ]
    assert site.path.unparsed == 1
    assert b'{"accepted":2,"rejected":0,' in second
    assert comparable(first) == comparable(second)
    assert other[9:12] == b"422"  # one event is no batch, whatever head came before
    large = request(project, [event_of(210)] * 250, target="/events/batch")
    assert 62_000 < len(large) < 64 * 1024
    (answer,) = await talk(site, large)
    assert b'{"accepted":250,"rejected":0,' in answer
    assert await stored(database) == 2 + 4 + 250


async def test_many_requests_of_one_connection_are_not_parsed(
    site: Site, project: TestProject, database: Database
) -> None:
    reader, writer = await connect(site)
    for number in range(20):
        writer.write(request(project, event_of(number)))
        assert (await read_answer(reader)).startswith(b"HTTP/1.1 202 ")
    writer.close()
    assert site.path.unparsed == 20
    assert await stored(database) == 22


@pytest.mark.parametrize(
    "changed",
    [
        {"X_Request_Id": "abc-1"},
        {"Content_Type": "text/html"},
        {"Content_Length": "05"},
        {"Content_Length": "+5"},
        {"Content_Length": ""},
        {"Transfer_Encoding": "chunked"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
        {"Extra": "1"},
        {"target": "/events?"},
        {"version": "1.0"},
        {"method": "PUT"},
    ],
    ids=str,
)
async def test_a_head_that_differs_is_parsed(site: Site, project: TestProject, changed: dict[str, str]) -> None:
    reader, writer = await connect(site)
    writer.write(request(project, **changed))  # type: ignore[arg-type]  # among the options only headers are text
    with pytest.raises((TimeoutError, asyncio.IncompleteReadError)):  # for more of the body, or after the answer
        async with asyncio.timeout(0.3):
            await reader.readexactly(100_000)
    writer.close()
    assert site.path.unparsed == 0


async def test_a_request_in_the_body_of_another_is_no_request(
    site: Site, project: TestProject, database: Database
) -> None:
    inner = request(project)
    for outer in (request(project, body=inner), request(project, body=inner, target="/elsewhere")):
        head = outer[: -len(inner)]
        (answer,) = await talk(site, head, inner)
        assert answer[9:12] in (b"400", b"404")
        (answer,) = await talk(site, head + inner[:1], inner[1:])
        assert answer[9:12] in (b"400", b"404")
    chunked = request(project, body=b"", Content_Length="", Transfer_Encoding="chunked")
    (answer,) = await talk(site, chunked + b"%x\r\n" % len(inner), inner, b"\r\n0\r\n\r\n")
    assert answer[9:12] == b"400"
    assert site.path.unparsed == 0
    assert await stored(database) == 2


async def test_behind_half_a_head_nothing_is_taken_for_a_beginning(
    site: Site, project: TestProject, database: Database
) -> None:
    (answer,) = await talk(site, b"POST /events HTTP/1.1\r\nX-More: ", request(project, X_Request_Id="none"))
    assert answer[9:12] == b"202"
    assert site.path.unparsed == 0
    assert await stored(database) == 3


async def test_a_head_is_not_known_by_what_came_before_it(site: Site, project: TestProject) -> None:
    keyless = request(project, x_api_key="", Host="other")
    before = f"POST /events HTTP/1.1\r\nX-Api-Key: {project.key}\r\nX-More: ".encode()
    (answer,) = await talk(site, before, keyless)
    assert answer[9:12] == b"202"
    (answer,) = await talk(site, keyless)
    assert answer[9:12] == b"401"


async def test_a_request_id_is_answered_each_time(site: Site, project: TestProject) -> None:
    for _ in range(2):
        (answer,) = await talk(site, request(project, X_Request_Id="again"))
        assert b"X-Request-Id: again\r\n" in answer
    assert site.path.unparsed == 0


async def test_requests_that_come_together_are_all_answered_and_in_order(site: Site, project: TestProject) -> None:
    known = request(project)
    answers = await talk(site, known + request(project, body=b"{") + known, known, answers=4)
    assert [answer[9:12] for answer in answers] == [b"202", b"400", b"202", b"202"]
    answers = await talk(site, known, known[:-5], known[-5:], known, answers=3)
    assert [answer[9:12] for answer in answers] == [b"202", b"202", b"202"]
    assert site.path.unparsed == 2  # the first, and the last: what comes in two pieces ends where its length says


async def test_a_length_of_thousands_of_digits_is_answered(site: Site, project: TestProject) -> None:
    zeros = request(project, method="GET", target="/elsewhere", body=b"", Content_Length="0" * 5000)
    (answer,) = await talk(site, zeros)
    assert answer[9:12] == b"404"


async def test_a_revoked_key_is_refused_though_its_head_is_known(site: Site, project: TestProject) -> None:
    await site.known.forget(hash_key(project.key))
    assert (await exchange(site, request(project))).startswith(b"HTTP/1.1 401 ")


async def test_a_worker_that_stops_leaves_known_heads_to_the_view(site: Site, project: TestProject) -> None:
    site.draining.append(True)
    assert (await exchange(site, request(project))).startswith(b"HTTP/1.1 202 ")
    assert site.path.unparsed == 0


@pytest.mark.parametrize("seed", range(12))
async def test_any_requests_in_any_pieces_are_answered_as_each_on_its_own(
    site: Site, project: TestProject, seed: int
) -> None:
    chance = random.Random(seed)
    known = request(project)
    kinds = [
        lambda: request(project, event_of(chance.randrange(2000))),
        lambda: request(project, event_of(chance.randrange(2000))),
        lambda: request(project, EVENT, X_Request_Id=f"r{chance.randrange(9)}"),
        lambda: request(project, body=known),
        lambda: request(project, {"eventType": "x", "payload": {"text": known.decode()}}),
        lambda: request(project, event_of(30_000)),
        lambda: request(project, body=b"{"),
        lambda: request(project, [event_of(chance.randrange(99))] * chance.randrange(1, 200), target="/events/batch"),
        lambda: request(project, [EVENT, 1, EVENT], target="/events/batch"),
        lambda: request(project, target="/elsewhere", body=known),
        lambda: request(project, method="GET", target="/elsewhere", body=b"", Content_Length=""),
        lambda: (
            request(project, body=b"", Content_Length="", Transfer_Encoding="chunked")
            + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (json.dumps(EVENT).encode(), b""))
        ),
    ]
    reader, writer = await connect(site)
    for _ in range(15):
        sent = chance.choice(kinds)()
        cuts = sorted(chance.sample(range(1, len(sent)), k=chance.choice((0, 0, 1, 2))))
        for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            writer.write(sent[start:end])
            if end < len(sent):
                await asyncio.sleep(0.01)
        answer = await read_answer(reader)
        alone = await exchange(site, sent, in_two=True)
        assert comparable(answer) == comparable(alone), sent[:300]
    writer.close()
    assert site.intake.budget.used == 0
