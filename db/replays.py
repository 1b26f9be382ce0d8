"""Replays: which there are, who works on one, and the switch of questions to what it counted (docs/adr/0019).

What a replay does event by event is in db/replaying.py.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from boost_streams.errors import Conflict, NotFound
from db.pool import Connection
from db.workers import DEAD_AFTER_SECONDS

State = Literal["waiting", "running", "switched", "complete", "cancelled"]

#: Events before the oldest and from the newest year that an event may be of are not there.
FIRST_BUCKET = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
LAST_BUCKET = dt.datetime(2101, 1, 1, tzinfo=dt.UTC)
#: The first key of the advisory lock of who works on a replay; the second is the replay's number.
_RUNNERS_LOCK = 0x7265706C  # "repl"

_NEXT_CUTOVER = "UPDATE cutovers SET newest = newest + 1 RETURNING newest"
_ADD = """
INSERT INTO replays (id, handler, version, event_types, all_others, since, until, project_id, rate)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_COLUMNS = (
    "id, handler, version, event_types, all_others, since, until, project_id, rate, state, events_read, "
    "events_counted, events_refused, problem, created_at, worked_at, switched_at, ended_at"
)
_GET = f"SELECT {_COLUMNS} FROM replays WHERE id = $1"  # noqa: S608 - column names
_LIST = f"SELECT {_COLUMNS} FROM replays ORDER BY id DESC LIMIT $1"  # noqa: S608 - column names
_TRY_LOCK = "SELECT pg_try_advisory_lock($1, $2)"
_TAKE = """
UPDATE replays SET runner = $2, rate = coalesce($3::int, rate), problem = NULL, worked_at = now()
WHERE id = $1 AND state IN ('waiting', 'running', 'switched') RETURNING id
"""
_NOTE = "UPDATE replays SET problem = $3 WHERE id = $1 AND runner = $2"
_OTHERS = """
SELECT host, url, (handlers ->> $2)::int AS version FROM workers
WHERE 'agents' = ANY (roles) AND heartbeat_at > now() - make_interval(secs => $1)
    AND (handlers ->> $2)::int IS DISTINCT FROM $3::int
ORDER BY heartbeat_at DESC LIMIT 1
"""
# A replay that has nothing left to do, and whose runner this is. The row's lock keeps somebody else's last piece out.
_FINISH = """
UPDATE replays r SET state = 'switched', switched_at = now(), worked_at = now()
WHERE r.id = $1 AND r.runner = $2 AND r.state = 'running'
    AND NOT EXISTS (SELECT 1 FROM replay_projects p WHERE p.replay_id = r.id AND NOT p.done)
RETURNING r.id
"""
_SWITCH = """
INSERT INTO rollup_switches (project_id, cutover, event_types, all_others, since, until)
SELECT p.project_id, r.id, r.event_types, r.all_others, p.since, r.until
FROM replay_projects p JOIN replays r ON r.id = p.replay_id WHERE p.replay_id = $1 ORDER BY p.project_id
"""
_CANCEL = "UPDATE replays SET state = 'cancelled' WHERE id = $1 AND state IN ('waiting', 'running') RETURNING id"
_END = """
UPDATE replays SET state = CASE state WHEN 'switched' THEN 'complete' ELSE state END, ended_at = now(), runner = NULL
WHERE id = $1 AND state IN ('switched', 'cancelled') AND ended_at IS NULL
"""
_POSITIONS = "SELECT start_id, cutover_id, position, done FROM replay_projects WHERE replay_id = $1"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a replay runs again.

    `event_types` are the types or, with `all_others`, those that are left out. `since` and `until` (exclusive) are UTC
    midnights, of `occurred_at`: so what is counted anew are whole buckets. `project_id` None is every project.
    """

    handler: str
    version: int
    event_types: tuple[str, ...]
    all_others: bool = False
    since: dt.datetime = FIRST_BUCKET
    until: dt.datetime = LAST_BUCKET
    project_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay. Its id is the number of its cut-over: it counts what settled before that, live settling the rest."""

    id: int
    scope: Scope
    rate: int
    state: State
    events_read: int
    events_counted: int
    events_refused: int
    problem: str | None
    created_at: dt.datetime
    worked_at: dt.datetime | None
    switched_at: dt.datetime | None
    ended_at: dt.datetime | None


async def create_replay_across_projects(connection: Connection, scope: Scope, rate: int) -> int:
    """Begin a replay: from the commit on, what settles is counted live on the far side of its cut-over.

    Returns:
        Its number.
    """
    async with connection.transaction():
        number: int = await connection.fetchval(_NEXT_CUTOVER)
        await connection.execute(
            _ADD,
            number,
            scope.handler,
            scope.version,
            list(scope.event_types),
            scope.all_others,
            scope.since,
            scope.until,
            scope.project_id,
            rate,
        )
    return number


async def get_replay_across_projects(connection: Connection, replay_id: int) -> Replay:
    """Return a replay.

    Raises:
        NotFound: There is none with this number.
    """
    row = await connection.fetchrow(_GET, replay_id)
    if row is None:
        raise NotFound(f"there is no replay {replay_id}")
    return _replay(row)


async def list_replays_across_projects(connection: Connection, limit: int = 100) -> list[Replay]:
    """List replays, the newest first."""
    return [_replay(row) for row in await connection.fetch(_LIST, limit)]


async def hold_replay_across_projects(connection: Connection, replay_id: int) -> bool:
    """Take the place of who works on a replay, for as long as this connection lives; False when it is taken.

    A process that dies gives its place up at once. The place is a courtesy: that nothing is counted twice does not hang
    on it, since each piece moves a position on from where its runner knows it to be.
    """
    taken: bool = await connection.fetchval(_TRY_LOCK, _RUNNERS_LOCK, replay_id)
    return taken


async def take_replay_across_projects(
    connection: Connection, replay_id: int, runner: UUID, rate: int | None = None
) -> Replay:
    """Become the runner of a replay; whoever was before can do no more to it. `rate` changes its rate.

    Raises:
        Conflict: It has ended.
        NotFound: There is none with this number.
    """
    if await connection.fetchval(_TAKE, replay_id, runner, rate) is None:
        replay = await get_replay_across_projects(connection, replay_id)
        raise Conflict(f"replay {replay_id} is {replay.state}")
    return await get_replay_across_projects(connection, replay_id)


async def note_problem_across_projects(connection: Connection, replay_id: int, runner: UUID, problem: str) -> None:
    """Note why a runner gave up."""
    await connection.execute(_NOTE, replay_id, runner, problem)


async def other_version_across_projects(connection: Connection, handler: str, version: int) -> str | None:
    """Say which living worker settles events with another version of a handler; None when all have this one."""
    row = await connection.fetchrow(_OTHERS, DEAD_AFTER_SECONDS, handler, version)
    if row is None:
        return None
    runs = "does not know it" if row["version"] is None else f"runs version {row['version']}"
    return f"this is version {version} of handler {handler}, the worker at {row['url'] or row['host']} {runs}"


async def switch_across_projects(connection: Connection, replay_id: int, runner: UUID) -> None:
    """Have questions read what a replay counted that has nothing left to do: all projects at once.

    Raises:
        Conflict: It was cancelled, somebody else works on it, or something is left to do.
    """
    async with connection.transaction():
        if await connection.fetchval(_FINISH, replay_id, runner) is None:
            raise Conflict(f"replay {replay_id} was cancelled, or somebody else works on it")
        await connection.execute(_SWITCH, replay_id)


async def cancel_replay_across_projects(connection: Connection, replay_id: int) -> None:
    """End a replay before its switch; what it counted is of no use any more, and nobody reads it.

    Raises:
        Conflict: It has switched already.
        NotFound: There is none with this number.
    """
    if await connection.fetchval(_CANCEL, replay_id) is None:
        replay = await get_replay_across_projects(connection, replay_id)
        if replay.state != "cancelled":
            raise Conflict(f"replay {replay_id} is {replay.state}: questions read what it counted")


async def end_replay_across_projects(connection: Connection, replay_id: int) -> None:
    """Say that a replay that switched, or was cancelled, has left nothing to be cleared away."""
    await connection.execute(_END, replay_id)


async def done_share_across_projects(connection: Connection, replay_id: int) -> float:
    """Return how much of its way a replay has gone, 0 to 1, by the times in the ids, each project the same."""
    rows = await connection.fetch(_POSITIONS, replay_id)
    return _mean([1.0 if row["done"] else _share(row) for row in rows])


def _share(row: Any) -> float:
    start, end, position = (row[name].int >> 80 for name in ("start_id", "cutover_id", "position"))
    share: float = (position - start) / max(end - start, 1)
    return min(max(share, 0.0), 1.0)


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else 0.0


def _replay(row: Any) -> Replay:
    values = dict(row)
    scope = {name: values.pop(name) for name in ("handler", "version", "all_others", "since", "until", "project_id")}
    return Replay(scope=Scope(event_types=tuple(values.pop("event_types")), **scope), **values)
