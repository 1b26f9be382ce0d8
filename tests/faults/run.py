"""Runs one campaign: traffic, faults as scheduled, quiescence, and what the oracle says."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.campaigns import Campaign, Planned, schedule
from tests.faults.faults import Fault
from tests.faults.poison import handle_as_the_workers_do
from tests.faults.rig import CannotBeHad, Rig, running_rig
from tests.faults.traffic import TrafficClient
from tests.support import oracle
from tests.support.waiting import eventually

Say = Callable[[str], None]

_SETTLED = """
SELECT (SELECT count(*) FROM events WHERE status = 'pending') AS events,
    (SELECT count(*) FROM event_batches) AS batches, (SELECT count(*) FROM event_retries) AS retries
"""
#: What became of the events of a few batches that are left over.
_LEFT = """
SELECT b.id, b.unsettled, b.publish_count, b.created_at, b.last_published_at, b.due_at, b.suspect, b.worker_id, b.seq,
    array(SELECT (e.id, e.event_type, e.status, e.attempt, e.message_id, e.settled_at)::text FROM events e
          WHERE e.project_id = ANY (b.project_ids) AND e.id BETWEEN b.first_id AND b.last_id ORDER BY e.id) AS events
FROM event_batches b ORDER BY b.id LIMIT 3
"""
_CAUGHT_UP = """
SELECT count(*) AS partitions, bool_and(caught_up AND recorded_at > now() - interval '4 seconds') AS caught_up
FROM consumer_progress
"""
_LONGEST = "SELECT coalesce(max(extract(epoch FROM settled_at - received_at)), 0)::float8 FROM events WHERE attempt = 0"


@dataclass(slots=True)
class Outcome:
    """What one run of a campaign came to."""

    campaign: str
    seed: int
    scale: float
    faults: dict[str, int] = field(default_factory=dict)
    events: int = 0
    accepted: int = 0
    lost: int = 0
    duplicate_effects: int = 0
    #: The longest that a client waited for its 202, and an event for its settlement, all faults included (seconds).
    longest_202: float = 0.0
    longest_settled: float = 0.0
    #: From the end of the last fault until everything was settled, and all of the run (seconds).
    recovered: float = 0.0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


async def run(campaign: Campaign, seed: int, scale: float, say: Say) -> Outcome:
    """Run a campaign; never raises for what the product does wrong: that stands in `problems`.

    Raises:
        CannotBeHad: This machine cannot do what the campaign needs.
    """
    started = time.monotonic()
    outcome = Outcome(campaign.name, seed, scale)
    chance = random.Random(f"traffic {campaign.name} {seed}")
    rig_options: dict[str, Any] = {"on_small_disk": campaign.on_small_disk, "extra": dict(campaign.environment)}
    async with running_rig(campaign.workers, chance, **rig_options) as rig:
        urls = [rig.url_of(number, direct=not campaign.clients_too) for number in range(len(rig.workers))]
        client = TrafficClient(urls, rig.projects, random.Random(f"client {seed}"))
        rig.client = client
        try:
            await _under_load(campaign, schedule(campaign, seed, scale), rig, client, chance, outcome, say)
            await _quiescence(campaign, rig, client, outcome)
        except CannotBeHad:
            await client.close()
            raise
        except Exception as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
        await _judge(campaign, rig, client, outcome)
        if outcome.problems:
            keep_logs(rig, say)
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def keep_logs(rig: Rig, say: Say) -> None:
    """Copy the logs of a run that was not as it must be to where they outlive it."""
    folder = Path(tempfile.mkdtemp(prefix="boost-faults-"))
    for number, worker in enumerate(rig.workers):
        shutil.copy(worker.log, folder / f"worker-{number}.log")
    for server in (rig.postgres, rig.kafka):
        shutil.copy(server.data_dir / f"{server.name}.log", folder / f"{server.name}.log")
    say(f"  logs: {folder}")


async def _under_load(
    campaign: Campaign,
    planned: Sequence[Planned],
    rig: Rig,
    client: TrafficClient,
    chance: random.Random,
    outcome: Outcome,
    say: Say,
) -> None:
    throughout = [make() for make in campaign.throughout]
    for fault in throughout:
        await fault.start(rig, chance)
    traffic = asyncio.create_task(client.run(campaign.rate))
    done: Counter[str] = Counter()
    try:
        if campaign.overlapping:
            await _overlapping(planned, rig, chance, done, say)
        else:
            for plan in planned:
                await _one(plan, rig, chance, done, say, client.burst(campaign.burst) if campaign.burst else None)
    finally:
        outcome.faults = {plan.title: done[plan.title] for plan in planned}
        client.stop_sending()
        await asyncio.gather(traffic, return_exceptions=True)
        for fault in throughout:
            await fault.stop(rig)


async def _one(
    plan: Planned, rig: Rig, chance: random.Random, done: Counter[str], say: Say, meanwhile: Any = None
) -> None:
    await asyncio.sleep(plan.after)
    fault: Fault = plan.make()
    began = time.monotonic()
    await fault.start(rig, chance)
    if meanwhile is not None:
        await meanwhile
    await asyncio.sleep(plan.lasts)
    await fault.stop(rig)
    done[plan.title] += 1
    say(f"  {plan.title} ({done[plan.title]}), {time.monotonic() - began:.1f} s")


async def _overlapping(
    planned: Sequence[Planned], rig: Rig, chance: random.Random, done: Counter[str], say: Say
) -> None:
    """Let each begin when its pause after the beginning of the one before is over; two of one kind never overlap."""
    locks: dict[str, asyncio.Lock] = {plan.title: asyncio.Lock() for plan in planned}
    async with asyncio.TaskGroup() as group:

        async def one(plan: Planned) -> None:
            async with locks[plan.title]:
                await _one(Planned(plan.title, plan.make, 0.0, plan.lasts), rig, chance, done, say)

        for plan in planned:
            await asyncio.sleep(plan.after)
            group.create_task(one(plan))


async def _quiescence(campaign: Campaign, rig: Rig, client: TrafficClient, outcome: Outcome) -> None:
    """Wait until everything is accepted, settled, and nothing is under way any more."""
    ended = time.monotonic()
    await rig.ensure_running()
    await client.all_accepted()

    async def settled() -> bool:
        async with rig.database.across_projects() as connection:
            row = await connection.fetchrow(_SETTLED)
            left = await connection.fetch(_LEFT) if row["batches"] else []
        assert not any(row.values()), (dict(row), [dict(batch) for batch in left])
        return True

    await eventually(settled, deadline=campaign.rules.settled_within, what="everything settled")
    outcome.recovered = round(time.monotonic() - ended, 1)

    async def caught_up() -> bool:
        async with rig.database.across_projects() as connection:
            row = await connection.fetchrow(_CAUGHT_UP)
        assert all(row.values()), dict(row)
        return True

    await eventually(caught_up, deadline=60, what="consumers caught up, so nothing comes again")


async def _judge(campaign: Campaign, rig: Rig, client: TrafficClient, outcome: Outcome) -> None:
    await client.close()
    verdict = await oracle.judge(rig.database, client.promises, handle_as_the_workers_do())
    async with rig.database.across_projects() as connection:
        outcome.longest_settled = round(await connection.fetchval(_LONGEST), 1)
    figures = client.figures
    outcome.events, outcome.accepted = verdict.events, verdict.accepted
    outcome.lost = len(verdict.lost) + len(verdict.pending)
    outcome.duplicate_effects = len(verdict.wrong_counters) + len(verdict.wrong_users) + len(verdict.doubled)
    outcome.longest_202 = round(figures.slowest_accepted, 1)
    outcome.figures = {
        "statuses": {str(status): count for status, count in sorted(figures.statuses.items())},
        "resets": figures.resets,
        "refused": figures.refused,
        "timeouts": figures.timeouts,
        "slowest_503": round(figures.slowest_503, 2),
        "left_by_themselves": rig.left,
    }
    for name, value in verdict.problems.items():
        shown = f"{len(value)}, such as {value[:3]}" if isinstance(value, list) else value
        outcome.problems.append(f"{name}: {shown}")
    outcome.problems += [f"an answer that must not be: {text}" for text in sorted(set(figures.wrong))[:5]]
    rules = campaign.rules
    if rules.refused_within is not None and figures.slowest_503 > rules.refused_within:
        outcome.problems.append(f"a 503 came after {figures.slowest_503:.1f} s")
    if rules.resets is not None and figures.resets > rules.resets:
        outcome.problems.append(f"{figures.resets} connections were reset")
    if other := set(figures.statuses) - rules.statuses:
        outcome.problems.append(f"answers with {sorted(other)}")
