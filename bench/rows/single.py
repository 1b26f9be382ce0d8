"""Single-event POSTs: one `web` worker, and a whole worker that settles what it takes, against parse-only servers.

In each round the two parse-only servers and our workers are loaded one after the other, with the same requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.ceilings.servers import LABELS, parse_only_server
from bench.deployment import Deployment, deployed
from bench.load.paced import rates_under_load
from bench.load.wrk import WrkAnswer, saturate
from bench.meter import COST_LABELS, cost_since, read
from bench.results import Goal, Row
from bench.run import WITHOUT_GOAL, WITHOUT_LABEL, Bench, compare_with, suffix, with_ids

NAME = "single"
_KINDS = {"single": "one web worker", "whole": "whole worker, all settled"}
_CONNECTIONS = (64, 256)
ROWS = tuple(
    f"{kind}.c{connections}{suffix(ids)}" for kind in _KINDS for connections in _CONNECTIONS for ids in (False, True)
)
_GOALS = {
    "single": (
        Goal("of Faust, parse only", ">=", 0.85, ("faust",)),
        Goal("of aiohttp, parse only", ">=", 0.70, ("aiohttp",)),
    ),
    "whole": (
        Goal("of Faust, parse only", ">=", 0.60, ("faust",)),
        Goal("of aiohttp, parse only", ">=", 0.50, ("aiohttp",)),
    ),
}
_WARM_UP_SECONDS = 1.0
#: A whole worker settles in lumps, so it is counted for so many times as long.
_WHOLE_LONGER = 2.0


@dataclass(frozen=True, slots=True)
class _Case:
    connections: int
    message_ids: bool

    def row_id(self, kind: str) -> str:
        return f"{kind}.c{self.connections}{suffix(self.message_ids)}"


def measure(bench: Bench) -> Iterable[Row]:
    """Measure every wanted combination of worker, connections and messageId."""
    cases = [_Case(connections, ids) for connections in bench.effort.connections for ids in bench.effort.message_ids]
    kinds = [kind for kind in _KINDS if any(bench.wanted(case.row_id(kind)) for case in cases)]
    rows = {case.row_id(kind): _row(kind, case) for kind in kinds for case in cases if bench.wanted(case.row_id(kind))}
    with contextlib.ExitStack() as stack:
        faust = stack.enter_context(parse_only_server(bench.site, "faust"))
        aiohttp = stack.enter_context(parse_only_server(bench.site, "aiohttp"))
        workers = {kind: stack.enter_context(_worker(bench, kind)) for kind in kinds}
        for url in (faust, aiohttp, *(worker.address for worker in workers.values())):
            saturate(url, bench.single(), connections=64, seconds=_WARM_UP_SECONDS)
        if "whole" in workers:
            workers["whole"].wait_until_settled()
        for number in range(bench.effort.rounds):
            for case in cases:
                _measure_round(bench, number, case, (faust, aiohttp), workers, rows)
    return rows.values()


def _measure_round(
    bench: Bench,
    number: int,
    case: _Case,
    ceilings: tuple[str, str],
    workers: dict[str, Deployment],
    rows: dict[str, Row],
) -> None:
    """Measure ceiling, ours, the other ceiling, ours; in the next round the ceilings change places."""
    ours = [kind for kind in workers if case.row_id(kind) in rows]
    pairs = list(zip(("faust", "aiohttp"), ceilings, strict=True))
    if number % 2:
        pairs.reverse()
    parse_only: dict[str, float] = {}
    measured: dict[str, dict[str, float]] = {}
    for position, (name, url) in enumerate(pairs if ours else []):
        parse_only[name] = _answer(bench, case, url).rate
        for kind in ours[position::2]:
            measured[kind] = _ours(bench, case, kind, workers[kind])
    for kind in ours:
        row = rows[case.row_id(kind)]
        one = {"boost": measured[kind].pop("boost"), **parse_only, **measured[kind]}
        row.rounds.append(one)
        if case.message_ids:
            compare_with(rows.get(_Case(case.connections, False).row_id(kind)), row)
        shown = {name: one[name] for name in ("boost", "faust", "aiohttp")}
        bench.end_round(number, row.id, shown | {"ratio": one["boost"] / one["faust"]})


def _answer(bench: Bench, case: _Case, url: str) -> WrkAnswer:
    requests = bench.single(message_ids=case.message_ids)
    return saturate(url, requests, connections=case.connections, seconds=bench.effort.seconds)


def _ours(bench: Bench, case: _Case, kind: str, worker: Deployment) -> dict[str, float]:
    """Return requests per second, of a whole worker those that it also settles, and their cost."""
    before = read(worker)
    if kind == "single":
        rate = _answer(bench, case, worker.address).rate
    else:
        requests, seconds = bench.single(message_ids=case.message_ids), _WHOLE_LONGER * bench.effort.seconds
        rate = rates_under_load(worker, requests, connections=case.connections, seconds=seconds).settled
    return {"boost": rate, **cost_since(worker, before)}


@contextlib.contextmanager
def _worker(bench: Bench, kind: str) -> Iterator[Deployment]:
    roles = "web" if kind == "single" else "web,agents,sweeper"
    with deployed(bench.site, kind, roles) as deployment:
        yield deployment


def _row(kind: str, case: _Case) -> Row:
    return Row(
        id=case.row_id(kind),
        group=NAME,
        title=f"Single-event POST, {_KINDS[kind]}, {case.connections} connections{with_ids(case.message_ids)}",
        unit="requests/s",
        rounds=[],
        goals=[*_GOALS[kind], *([WITHOUT_GOAL] if case.message_ids else [])],
        labels={"boost": "Boost", **LABELS, **WITHOUT_LABEL, **COST_LABELS},
    )
