"""Dead rows after many events, inserted and settled, with autovacuum on and no vacuum run by hand."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bench.database import Question, TableState, ask
from bench.deployment import deployed
from bench.errors import BenchError
from bench.load.paced import FIRST_SHARE, send_and_settle, settled_throughput
from bench.load.wrk import Requests
from bench.results import Goal, Row
from bench.rows.end_to_end import CONNECTIONS
from bench.run import Bench, suffix, with_ids

NAME = "dead_rows"
ROWS = ("dead_rows", "dead_rows.ids")
_GOALS = (Goal("% of the rows", "<=", 1.0),)
_FIRST_SECONDS = 2.0
_ROUNDS_OF_AUTOVACUUM = 2
_NAPTIME = "SELECT setting::float8 FROM pg_settings WHERE name = 'autovacuum_naptime'"


def measure(bench: Bench) -> Iterable[Row]:
    """Send and settle so many events at a pace that holds, and count."""
    rows = {ids: _row(bench.effort.events, ids) for ids in bench.variants(NAME)}
    for number in range(bench.effort.rounds):
        for ids, row in rows.items():
            states = _states_after_load(bench, bench.batches(message_ids=ids))
            if any(state.vacuums for state in states):
                raise BenchError("somebody ran VACUUM: this says nothing about autovacuum")
            row.rounds.append(_shares([state for state in states if state.name.startswith("events_")]))
            row.details["tables"] = {state.name: _described(state) for state in states}
            bench.end_round(number, row.id, row.rounds[-1])
    return rows.values()


def _states_after_load(bench: Bench, load: Requests) -> list[TableState]:
    """Have a worker of its own take and settle the events; return the state of its tables some time later."""
    with deployed(bench.site, NAME, "web,agents,sweeper") as worker, ask(worker.url) as question:
        about = settled_throughput(worker, load, connections=CONNECTIONS, seconds=_FIRST_SECONDS)
        pace, events = FIRST_SHARE * about, bench.effort.events
        send_and_settle(worker, load, connections=CONNECTIONS, pace=pace, events=events, say=bench.say)
        return _states_after_autovacuum(question)


def _states_after_autovacuum(question: Question) -> list[TableState]:
    """Return the state of the tables when autovacuum has had its chance: two of its rounds after the last event."""
    time.sleep(_ROUNDS_OF_AUTOVACUUM * question.one(_NAPTIME))
    return question.table_states()


def _shares(events: list[TableState]) -> dict[str, float]:
    live, dead = sum(state.live for state in events), sum(state.dead for state in events)
    updates, hot = sum(state.updates for state in events), sum(state.hot_updates for state in events)
    return {
        "boost": 100 * dead / max(1, live),
        "rows": float(live),
        "dead": float(dead),
        "hot": 100 * hot / max(1, updates),
        "autovacuums": float(sum(state.autovacuums for state in events)),
    }


def _described(state: TableState) -> dict[str, int]:
    return {"rows": state.live, "dead": state.dead, "autovacuums": state.autovacuums}


def _row(events: int, message_ids: bool) -> Row:
    title = f"Dead rows in `events` after {events:,} events, batches of a hundred, two rounds of autovacuum later"
    return Row(
        id=f"{NAME}{suffix(message_ids)}",
        group=NAME,
        title=f"{title}{with_ids(message_ids)}",
        unit="% of the rows",
        rounds=[],
        goals=list(_GOALS),
        labels={
            "boost": "dead rows, % of the rows",
            "rows": "rows",
            "dead": "dead rows",
            "hot": "HOT updates, % of all updates",
            "autovacuums": "runs of autovacuum",
        },
        details={},
    )
