"""The journey of an event: what is recorded of it between its receipt and its settlement, read from where it is.

The event itself says when it was committed and settled, its batch or its retry what became of it while it is under way,
`event_publishes` who published it again. Callers have checked that the event is the project's: what is read across
projects here is times and workers, nothing of a tenant's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from boost_streams.event_id import batch_of, created_at, first_id_of_day
from db.events import StoredEvent
from db.pool import Connection
from db.workers import progress_across_projects

#: For how long what sweepers published is remembered (days).
REMEMBER_DAYS = 8
_MOST_DELETED = 5000

_RETRY = """
SELECT r.attempt, r.worker_id, r.reason, r.due_at, r.last_published_at FROM event_retries r
WHERE r.project_id = $1 AND r.event_id = $2
"""
_BATCH = "SELECT worker_id, due_at, last_published_at, publish_count FROM event_batches WHERE id = $1"
_PUBLISHES = """
SELECT p.attempt, p.worker_id, p.created_at FROM event_publishes p
WHERE p.id = ANY($1::uuid[]) ORDER BY p.created_at, p.attempt
"""
_NOTE_PUBLISHES = """
INSERT INTO event_publishes (id, attempt, worker_id)
SELECT t.id, t.attempt, $3 FROM unnest($1::uuid[], $2::int[]) AS t (id, attempt)
ON CONFLICT DO NOTHING
"""
_FORGET = """
DELETE FROM event_publishes p USING (
    SELECT f.id, f.attempt, f.created_at FROM event_publishes f
    WHERE f.id < $1 AND f.created_at < now() - make_interval(days => $2) ORDER BY f.id LIMIT $3) old
WHERE p.id = old.id AND p.attempt = old.attempt AND p.created_at = old.created_at
"""
_NOW = "SELECT now()"
_HOSTS = "SELECT id, host FROM workers"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an event. `at` is None where no time is recorded; `worker_id` where nobody is.

    `received` is the worker's clock, all else the database's.
    """

    step: str
    at: dt.datetime | None = None
    worker_id: UUID | None = None
    by: str | None = None
    attempt: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Journey:
    """The steps of an event in their order, and what it waits for; `due_at` says when it is published (again)."""

    steps: list[Step]
    waiting_for: str | None = None
    due_at: dt.datetime | None = None


async def retry_of_event(connection: Connection, project_id: UUID, event_id: UUID) -> Any:
    """Return the row that owns an event while it is to be tried again; None when there is none."""
    return await connection.fetchrow(_RETRY, project_id, event_id)


async def journey_across_projects(connection: Connection, event: StoredEvent, retry: Any, raw_topic: str) -> Journey:
    """Put together the journey of an event that the caller may see.

    Args:
        connection: A pipeline connection.
        event: The event, as its project sees it.
        retry: What `retry_of_event` returned.
        raw_topic: The name of the dispatcher's topic on the broker.
    """
    batch = await connection.fetchrow(_BATCH, batch_of(event.id))
    publishes = await connection.fetch(_PUBLISHES, [batch_of(event.id), event.id])
    _, progress = await progress_across_projects(connection)
    passed = [one.passed_at for one in progress if one.topic == raw_topic]
    return compose(event, batch, retry, publishes, min(passed, default=None))


def compose(
    event: StoredEvent, batch: Any, retry: Any, publishes: Sequence[Any], dispatched_before: dt.datetime | None
) -> Journey:
    """Put the steps in their order. `dispatched_before` is up to when the dispatchers have forwarded everything."""
    owned_by_batch = batch is not None and event.status == "pending" and event.attempt == 0
    owner = batch if owned_by_batch else retry
    committer = batch["worker_id"] if batch is not None and batch["publish_count"] == 1 else None
    steps = [
        Step("received", created_at(event.id)),
        Step("committed", event.received_at, committer),
    ]
    unsent = owned_by_batch and batch["publish_count"] == 1 and batch["last_published_at"] is None
    if not unsent:
        steps.append(Step("published", event.received_at, committer, by="intake", attempt=0))
    spent = 0
    for publish in publishes:
        if publish["attempt"] > event.attempt or _for_its_neighbours(event, publish):
            continue
        while spent < publish["attempt"]:
            steps.append(Step("attempt", attempt=spent, detail="to be tried again"))
            spent += 1
        steps.append(
            Step("published", publish["created_at"], publish["worker_id"], by="sweeper", attempt=publish["attempt"])
        )
    while spent < event.attempt:
        reason = retry["reason"] if retry is not None and spent == event.attempt - 1 else None
        steps.append(Step("attempt", attempt=spent, detail=reason or "to be tried again"))
        spent += 1
    if event.status != "pending":
        steps.append(Step("dispatched", attempt=event.attempt))
        steps.append(Step("settled", event.settled_at, attempt=event.attempt, detail=event.status))
        return Journey(steps)
    return _under_way(steps, event, owner, dispatched_before)


def _for_its_neighbours(event: StoredEvent, publish: Any) -> bool:
    """Tell whether a batch was published for the sake of its other events: this one was settled by then."""
    return event.settled_at is not None and publish["created_at"] > event.settled_at


def _under_way(steps: list[Step], event: StoredEvent, owner: Any, dispatched_before: dt.datetime | None) -> Journey:
    if owner is None:
        return Journey(steps, "nothing: no batch and no retry owns it (boost doctor --deep)")
    published_at = owner["last_published_at"]
    if published_at is None:
        return Journey(steps, "a sweeper, to be published", owner["due_at"])
    if dispatched_before is None or dispatched_before <= published_at:
        return Journey(steps, "the dispatcher", owner["due_at"])
    steps.append(Step("dispatched", attempt=event.attempt))
    return Journey(steps, "its handler", owner["due_at"])


async def note_publishes_across_projects(
    connection: Connection, ids: Sequence[UUID], attempts: Sequence[int], worker_id: UUID
) -> None:
    """Note, within the transaction that claims them, that batches or retried events are published again."""
    await connection.execute(_NOTE_PUBLISHES, list(ids), list(attempts), worker_id)


async def forget_publishes_across_projects(connection: Connection) -> int:
    """Delete what is older than `REMEMBER_DAYS`, in pieces; return how many rows."""
    now: dt.datetime = await connection.fetchval(_NOW)
    before = first_id_of_day(now.date() - dt.timedelta(days=REMEMBER_DAYS - 1))
    deleted = 0
    while True:
        tag: str = await connection.execute(_FORGET, before, REMEMBER_DAYS, _MOST_DELETED)
        count = int(tag.rpartition(" ")[2])
        deleted += count
        if count < _MOST_DELETED:
            return deleted


async def hosts_across_projects(connection: Connection) -> dict[UUID, str]:
    """Return the hosts of the workers that are alive, for operators."""
    return {row["id"]: row["host"] for row in await connection.fetch(_HOSTS)}
