"""What ``boost doctor`` looks at: each check tells what it found and what to do about it, and never raises."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import asyncpg

from boost_streams.cli.consumer_lag import partitions_by_topic
from boost_streams.errors import BoostError, TopicSettingsUntold
from boost_streams.settings import Settings
from boost_streams.topics import check_topics, weak_topics
from db.batches import backlog_across_projects
from db.migrate import schema_fits, schema_revision
from db.migrations import HEAD
from db.partitions import DAYS_AHEAD, existing_days, has_partition_for_next_hour
from db.pauses import pauses_across_projects
from db.pool import Connection
from db.redis import Redis
from db.server import (
    NEWEST_MAJOR,
    OLDEST_MAJOR,
    act_as_pipeline,
    connect_as_login,
    role_states,
    server_facts,
    workers_alive_across_projects,
)

Level = Literal["ok", "warn", "error"]

_MIGRATE = "run boost migrate"
_DEFECT = "what it says is below; nothing else was checked there"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, what was found, and, unless it is ok, what to do."""

    level: Level
    name: str
    message: str
    advice: str = ""


async def check_database(settings: Settings) -> AsyncIterator[Finding]:
    """Look at PostgreSQL: reachable, version, durability, roles, schema, partitions, workers, backlog."""
    try:
        connection = await connect_as_login(settings.database_url)
    except BoostError as error:
        advice = "check DATABASE_URL, that the server runs, and that it lets this machine in"
        yield Finding("error", "postgresql", error.message, advice)
        return
    try:
        async for finding in _check_connected(connection, settings):
            yield finding
    except (BoostError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        yield Finding("error", "postgresql", str(error) or type(error).__name__, _DEFECT)
    finally:
        await connection.close(timeout=2)


async def _check_connected(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    async for finding in _check_server(connection, settings):
        yield finding
    roles = [finding async for finding in _check_roles(connection)]
    for finding in roles:
        yield finding
    revision = await schema_revision(connection)
    if not schema_fits(revision):
        found = "has no schema yet" if revision is None else f"revision {revision}, this release needs {HEAD}"
        yield Finding("error", "migrations", found, _MIGRATE)
        if revision is None:
            return
    else:
        newer = "" if revision == HEAD else f", of a newer release; this one needs {HEAD} or newer"
        yield Finding("ok", "migrations", f"revision {revision}{newer}")
    yield await _check_partitions(connection)
    if all(finding.level == "ok" for finding in roles):
        await act_as_pipeline(connection)
        yield await _check_workers(connection)
        yield await _check_backlog(connection, settings)
        for pause in await pauses_across_projects(connection):
            advice = "mend what it says, then boost topics resume"
            yield Finding("warn", "consumption", f"{pause.topic} is paused: {pause.reason}", advice)


async def _check_server(connection: Connection, settings: Settings) -> AsyncIterator[Finding]:
    server = await server_facts(connection)
    if OLDEST_MAJOR <= server.major <= NEWEST_MAJOR:
        yield Finding("ok", "postgresql", f"version {server.version}")
    else:
        advice = f"use PostgreSQL {OLDEST_MAJOR} to {NEWEST_MAJOR}"
        level: Level = "error" if server.major < OLDEST_MAJOR else "warn"
        yield Finding(level, "postgresql", f"version {server.version} is not one that is tested", advice)
    problem = server.durability_problem
    if problem is None:
        yield Finding("ok", "durability", "fsync, full_page_writes and synchronous_commit are on")
    else:
        said, _, advice = problem.partition("; ")
        yield Finding("error" if settings.production else "warn", "durability", said, advice)


async def _check_roles(connection: Connection) -> AsyncIterator[Finding]:
    problems = 0
    for role in await role_states(connection):
        if not role.exists:
            yield Finding("error", "roles", f"{role.name} does not exist", _MIGRATE)
        elif not role.usable:
            advice = f"as an administrator: GRANT {role.name} TO the user of DATABASE_URL"
            yield Finding("error", "roles", f"this login may not act as {role.name}", advice)
        elif role.bypasses:
            advice = f"ALTER ROLE {role.name} NOSUPERUSER NOBYPASSRLS"
            yield Finding("error", "roles", f"row-level security does not bind {role.name}", advice)
        else:
            continue
        problems += 1
    if problems == 0:
        yield Finding("ok", "roles", "all three are there and usable")


async def _check_partitions(connection: Connection) -> Finding:
    days = await existing_days(connection)
    advice = "start a worker: it makes them at start and every hour"
    if not await has_partition_for_next_hour(connection):
        return Finding("error", "partitions", "events has no partition for the next hour", advice)
    today: dt.date = (await connection.fetchval("SELECT now()")).date()
    missing = [f"{day}" for ahead in range(1, DAYS_AHEAD + 1) if (day := today + dt.timedelta(days=ahead)) not in days]
    if missing:
        return Finding("warn", "partitions", f"none yet for {', '.join(missing)}", advice)
    return Finding("ok", "partitions", f"{len(days)}, the last for {max(days)}")


async def _check_workers(connection: Connection) -> Finding:
    alive = await workers_alive_across_projects(connection)
    if alive == 0:
        return Finding("warn", "workers", "none is alive", "start one: boost worker")
    return Finding("ok", "workers", f"{alive} alive")


async def _check_backlog(connection: Connection, settings: Settings) -> Finding:
    counts = await backlog_across_projects(connection, settings.sweep_stuck_after_seconds)
    under_way = f"{counts['events']} events under way, {counts['retries']} to be tried again"
    if counts["stuck_events"]:
        seconds = settings.sweep_stuck_after_seconds
        message = f"{under_way}; {counts['stuck_events']} for longer than {seconds:g} s"
        return Finding("warn", "backlog", message, "boost topics tells whether consumers are behind")
    if counts["unpublished_events"]:
        message = f"{under_way}; {counts['unpublished_events']} wait to be published"
        return Finding("warn", "backlog", message, "a worker's sweeper publishes them once Kafka answers")
    return Finding("ok", "backlog", under_way)


async def check_kafka(settings: Settings) -> AsyncIterator[Finding]:
    """Look at Kafka: reachable, every topic there and as the settings ask for."""
    brokers = ", ".join(settings.brokers)
    try:
        if settings.boost_embedded_broker:
            await partitions_by_topic(settings)
            yield Finding("ok", "kafka", f"{brokers} answers; the in-process broker makes topics when asked")
            return
        missing, problems = await check_topics(settings)
        weak = await weak_topics(settings)
    except TopicSettingsUntold as error:
        yield Finding("ok", "kafka", f"{brokers} answers")
        advice = "nothing to do where it is the broker of boost dev; Apache Kafka does tell them"
        yield Finding("warn", "topics", f"not checked: {error.message}", advice)
        return
    except Exception as error:  # aiokafka raises much, and a doctor reports
        advice = "check KAFKA_BROKER and the KAFKA_ settings of TLS and SASL; accepted events wait in PostgreSQL"
        yield Finding("error", "kafka", f"{brokers}: {error}", advice)
        return
    yield Finding("ok", "kafka", f"{brokers} answers")
    for problem in problems:
        said, _, advice = problem.message.partition("; ")
        yield Finding("error", "topics", f"{problem.field} {said}", advice)
    for problem in weak:
        said, _, advice = problem.message.partition("; set ")
        yield Finding("warn", "topics", f"{problem.field} {said}", advice)
    if missing:
        yield Finding("warn", "topics", f"missing: {', '.join(missing)}", "start a worker: it makes them")
    if not problems and not weak and not missing:
        yield Finding("ok", "topics", "all there, as the settings ask for")


async def check_redis(settings: Settings) -> AsyncIterator[Finding]:
    """Look at Redis, which only saves look-ups of API keys."""
    redis = Redis(settings.redis_url)
    try:
        if not redis.configured:
            yield Finding("warn", "redis", "REDIS_URL is empty", "API keys are read from PostgreSQL; set it to cache")
        elif await redis.ping():
            yield Finding("ok", "redis", "answers")
        else:
            advice = "check REDIS_URL; until it answers, API keys are read from PostgreSQL"
            yield Finding("warn", "redis", "does not answer", advice)
    finally:
        await redis.close()
