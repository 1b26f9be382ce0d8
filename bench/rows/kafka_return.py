"""Kafka away: 202 goes on. Kafka back: how fast what was accepted meanwhile drains, and what new requests feel of it.

Both windows of a round, alone and beside the drain, begin after a checkpoint and get the same requests, open loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.database import ask
from bench.deployment import Deployment, deployed
from bench.errors import BenchError
from bench.load.oha import OhaAnswer, OhaRun
from bench.load.paced import settled_throughput
from bench.load.wrk import Requests, WrkRun
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS as BATCH_CONNECTIONS
from bench.run import BATCH_EVENTS, Bench, suffix, with_ids
from bench.unsettled import BacklogSampler, Drain, drain_of

NAME = "kafka_return"
ROWS = tuple(f"{NAME}.{name}{suffix(ids)}" for ids in (False, True) for name in ("drain", "p99"))
CONNECTIONS = 32
#: Single POSTs that arrive in both windows (per second).
RATE = 1000.0
_WARM_UP_SECONDS = 2.0
_SAMPLE_SECONDS = 0.1
#: How long the first settlement after the broker's return, and the last one, may take (seconds).
_FIRST_SECONDS = 120.0
_LAST_SECONDS = 600.0
_DRAIN_GOALS = (Goal("of the arrival rate", ">=", 3.0, ("arrival",)),)
_P99_GOALS = (Goal("of the same alone", "<=", 1.5, ("alone",)),)


@dataclass(frozen=True, slots=True)
class _Backlog:
    """What was accepted while Kafka was away: events that are stored, per second, and answers other than 202."""

    events: int
    rate: float
    refused: int


@dataclass(frozen=True, slots=True)
class _Return:
    """What followed the broker's return: the drain, the requests beside it, and their share that had a backlog.

    `emptied` is how long it took until nothing at all was left (seconds since the broker answered).
    """

    drain: Drain
    beside: OhaAnswer
    share: float
    emptied: float


def measure(bench: Bench) -> Iterable[Row]:
    """Take Kafka away and bring it back in each round, under a worker of its own."""
    variants = bench.variants(f"{NAME}.drain", f"{NAME}.p99")
    rows = {ids: (_drain_row(bench.effort.events, ids), _p99_row(ids)) for ids in variants}
    for number in range(bench.effort.rounds):
        for ids, (drain, p99) in rows.items():
            alone, backlog, back = _measure_round(bench, f"{NAME}{number}{'_ids' if ids else ''}", message_ids=ids)
            drain.rounds.append(_drain_values(backlog, back))
            p99.rounds.append(_p99_values(alone, back))
            for row in (drain, p99):
                bench.end_round(number, row.id, row.rounds[-1])
            if back.share < 1:
                lasted = f"the backlog lasted {back.share:.0%} of the window"
                bench.say(f"{p99.id}: {lasted}: take more events or fewer seconds")
    return [row for pair in rows.values() for row in pair if bench.wanted(row.id)]


def _measure_round(bench: Bench, name: str, *, message_ids: bool) -> tuple[OhaAnswer, _Backlog, _Return]:
    requests = bench.single(message_ids=message_ids)
    with deployed(bench.site, name, "web,agents,sweeper") as worker:
        settled_throughput(worker, requests, connections=CONNECTIONS, seconds=_WARM_UP_SECONDS)
        alone = _alone(bench, worker, requests)
        with bench.site.kafka_away():
            backlog = _accept(bench, worker, bench.batches(message_ids=message_ids))
            arrivals = _arrivals(bench, worker, requests, begin=False)
        return alone, backlog, _return(worker, arrivals, backlog.events)


def _alone(bench: Bench, worker: Deployment, requests: Requests) -> OhaAnswer:
    with ask(worker.url) as question:
        question.checkpoint()
    answer = _arrivals(bench, worker, requests).result()
    worker.wait_until_settled()
    return answer


def _accept(bench: Bench, worker: Deployment, batches: Requests) -> _Backlog:
    """Send batches as fast as they are answered until there is a backlog of so many events.

    Raises:
        BenchError: An answer was not 202, or not everything that was answered is stored.
    """
    answered, seconds, refused = 0, 0.0, 0
    while answered < bench.effort.events:
        left = (bench.effort.events - answered) * seconds / answered if answered else 1.0
        run = WrkRun(worker.address, batches, connections=BATCH_CONNECTIONS, seconds=left)
        answer = run.result()
        if not answer.requests:
            raise BenchError("nothing was answered while Kafka was away")
        answered += answer.requests * BATCH_EVENTS
        seconds += answer.seconds
        refused += answer.refused + answer.broken
    with ask(worker.url) as question:
        question.checkpoint()
        stored = question.unsettled()
    if stored < answered:
        raise BenchError(f"{answered} events were answered 202 while Kafka was away, {stored} are stored")
    return _Backlog(stored, answered / seconds, refused)


def _return(worker: Deployment, arrivals: OhaRun, backlog: int) -> _Return:
    """Watch the backlog from the broker's return on; as soon as it falls, send what was sent alone."""
    with BacklogSampler(worker.url, _SAMPLE_SECONDS) as sampler:
        sampler.wait_below(backlog, _FIRST_SECONDS)
        begin = sampler.elapsed
        arrivals.begin()
        beside = arrivals.result()
        end = sampler.elapsed
        worker.wait_until_settled(_LAST_SECONDS)
        emptied = sampler.elapsed
    drain = drain_of([(0.0, backlog), *sampler.samples], end)
    return _Return(drain, beside, drain.share_of(begin, end), emptied)


def _arrivals(bench: Bench, worker: Deployment, requests: Requests, *, begin: bool = True) -> OhaRun:
    seconds = bench.effort.seconds
    return OhaRun(worker.address, requests, rate=RATE, connections=CONNECTIONS, seconds=seconds, begin=begin)


def _drain_values(backlog: _Backlog, back: _Return) -> dict[str, float]:
    return {
        "boost": back.drain.rate,
        "arrival": RATE,
        "backlog": float(backlog.events),
        "accepted": backlog.rate,
        "refused": float(backlog.refused),
        "first": back.drain.first,
        "emptied": back.emptied,
    }


def _p99_values(alone: OhaAnswer, back: _Return) -> dict[str, float]:
    return {
        "boost": back.beside.p99_ms,
        "alone": alone.p99_ms,
        "boost_p50": back.beside.p50_ms,
        "alone_p50": alone.p50_ms,
        "boost_max": back.beside.max_ms,
        "alone_max": alone.max_ms,
        "share": back.share,
    }


def _drain_row(events: int, message_ids: bool) -> Row:
    title = f"Kafka back after {events:,} events: net fall of the backlog while {RATE:,.0f}/s arrive, one whole worker"
    return Row(
        id=f"{NAME}.drain{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="events/s",
        rounds=[],
        goals=list(_DRAIN_GOALS),
        labels={
            "boost": "Boost",
            "arrival": "single POSTs that arrive, events/s",
            "backlog": "events accepted while Kafka was away",
            "accepted": "accepted while Kafka was away, events/s",
            "refused": "answers other than 202 while Kafka was away",
            "first": "from Kafka's first answer to the first event settled, s",
            "emptied": "from Kafka's first answer until nothing was left, s",
        },
        details={"rate": RATE},
    )


def _p99_row(message_ids: bool) -> Row:
    title = f"p99 of single POST ({RATE:,.0f}/s) while the backlog of Kafka's absence drains, open loop"
    return Row(
        id=f"{NAME}.p99{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="ms",
        rounds=[],
        goals=list(_P99_GOALS),
        labels={
            "boost": "beside the drain, p99",
            "alone": "alone, p99",
            "boost_p50": "beside the drain, p50, ms",
            "alone_p50": "alone, p50, ms",
            "boost_max": "beside the drain, slowest, ms",
            "alone_max": "alone, slowest, ms",
            "share": "share of the window with a backlog",
        },
        details={"rate": RATE},
    )
