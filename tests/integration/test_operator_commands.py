"""`boost events`, `boost topics` and `boost doctor` against real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from click.testing import CliRunner, Result

from boost_streams.cli.consumer_lag import PartitionLag
from boost_streams.cli.main import cli
from boost_streams.cli.topics import per_topic
from boost_streams.embedded.broker import EmbeddedBroker
from boost_streams.event_id import batch_of
from boost_streams.kafka_client import mend_closed_connections
from db.partitions import existing_days, partition_name
from db.pauses import pauses_across_projects
from db.pool import Database
from db.workers import heartbeat_across_projects
from tests.support.stored_events import WORKER, settle, store

Run = Callable[..., Awaitable[Result]]


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    server = EmbeddedBroker()
    server.start()
    yield server.bootstrap
    server.stop()


@pytest.fixture
def run(database_url: str, broker: str) -> Run:
    async def invoke(*arguments: object, **environment: str) -> Result:
        environment = {
            "NODE_ENV": "test",
            "DATABASE_URL": database_url,
            "KAFKA_BROKER": broker,
            "REDIS_URL": "",
            "BOOST_EMBEDDED_BROKER": "true",
            "COLUMNS": "200",
            **environment,
        }
        # A thread of its own: a command runs an event loop of its own.
        return await asyncio.to_thread(CliRunner().invoke, cli, [str(one) for one in arguments], env=environment)

    return invoke


# -- boost events ------------------------------------------------------------------------------------------------


async def test_events_are_listed_as_http_does(run: Run, database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "page_view", payload=b'{"price": 1.10}')
    await settle(database, project.id, ids[:1], "failed")
    listed = await run("events", "list", "--project", project.id, "--json", "--limit", 1)
    page = json.loads(listed.stdout)
    assert [event["id"] for event in page["items"]] == [str(ids[1])]
    assert '"payload":{"price": 1.10}' in listed.stdout
    rest = await run("events", "list", "--project", project.id, "--cursor", page["nextCursor"])
    assert str(ids[0]) in rest.stdout
    assert str(ids[1]) not in rest.stdout
    assert "url is required" in rest.stdout
    failed = await run("events", "list", "--project", project.id, "--status", "failed", "--json")
    assert [event["id"] for event in json.loads(failed.stdout)["items"]] == [str(ids[0])]


async def test_event_is_shown(run: Run, database: Database, project: Any, other_project: Any) -> None:
    [event_id] = await store(database, project.id, "click", payload=b'{"price": 1.10}')
    shown = await run("events", "show", event_id, "--project", project.id)
    assert shown.exit_code == 0
    assert '"price": 1.10' in shown.stdout
    assert "committed" in shown.stdout
    assert "waits for the dispatcher" in shown.stdout
    as_json = json.loads((await run("events", "show", event_id, "--project", project.id, "--json")).stdout)
    assert [step["step"] for step in as_json["journey"]["steps"]] == ["received", "committed", "published"]
    hidden = await run("events", "show", event_id, "--project", other_project.id)
    assert hidden.exit_code == 1
    assert "there is no event" in hidden.stderr


async def test_no_cell_is_broken_however_narrow_the_terminal(
    run: Run, database: Database, project: Any, broker: str
) -> None:
    long = "a_type_" + "x" * 150
    [event_id] = await store(database, project.id, long, payload=f'{{"text": "{long}"}}'.encode())
    await settle(database, project.id, [event_id], "failed")
    listed = await run("events", "list", "--project", project.id, COLUMNS="40")
    [row] = [line for line in listed.stdout.splitlines() if "failed" in line]
    assert row.split()[:4] == [str(event_id), long, "failed", "0"]
    assert row.rstrip().endswith("url is required")
    shown = (await run("events", "show", event_id, "--project", project.id, COLUMNS="40")).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith(("id ", "eventType "))] == [
        str(event_id),
        long,
    ]
    assert f'"text": "{long}"' in shown
    assert len([line for line in shown.splitlines() if line.strip().startswith(("received ", "settled "))]) == 2
    prefix = f"{'t' * 60}{uuid4().hex[:8]}."
    await produce(broker, f"{prefix}raw-events", 0)
    topics = await run("topics", COLUMNS="40", KAFKA_TOPIC_PREFIX=prefix)
    [row] = [line for line in topics.stdout.splitlines() if "raw-events" in line]
    assert row.split()[:3] == [f"{prefix}raw-events", "4", "1"]


async def test_control_characters_of_clients_do_not_reach_the_terminal(
    run: Run, database: Database, project: Any
) -> None:
    [event_id] = await store(database, project.id, "\x1b]0;owned\x07[bold]click", payload='{"x": "\x9b31m"}'.encode())
    for arguments in (("list",), ("show", event_id)):
        shown = await run("events", *arguments, "--project", project.id)
        assert shown.exit_code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(shown.stdout)
        assert "[bold]click" in shown.stdout


async def test_failed_events_are_tried_again(run: Run, database: Database, project: Any) -> None:
    ids = await store(database, project.id, "click", "click", "click")
    await settle(database, project.id, ids[:2], "failed")
    result = await run("events", "retry", *ids[:2], "--project", project.id)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{event_id} pending, attempt 1" for event_id in ids[:2]]
    refused = await run("events", "retry", ids[2], uuid4(), "--project", project.id)
    assert refused.exit_code == 1
    assert "is pending" in refused.stderr
    assert "there is no event" in refused.stderr


async def test_database_that_is_away_is_said_in_a_line(run: Run, project: Any) -> None:
    away = "postgresql://postgres:secret@127.0.0.1:1/boost"
    result = await run("events", "list", "--project", project.id, DATABASE_URL=away)
    assert result.exit_code == 1
    assert "DATABASE_URL" in result.stderr
    assert "secret" not in result.output


async def test_database_without_a_schema_is_said_in_a_line(run: Run, project: Any, empty_database_url: str) -> None:
    result = await run("events", "list", "--project", project.id, DATABASE_URL=empty_database_url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


# -- boost topics ------------------------------------------------------------------------------------------------


async def produce(broker: str, topic: str, *partitions: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    for number in partitions:
        await producer.send_and_wait(topic, b"x", partition=number)
    await producer.stop()


async def commit(broker: str, group: str, place: TopicPartition, offset: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=broker, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([place])
    await consumer.commit({place: offset})
    await consumer.stop()


async def test_lag_in_messages_and_seconds(run: Run, broker: str) -> None:
    prefix = f"t{uuid4().hex[:8]}."
    await produce(broker, f"{prefix}raw-events", 0, 0, 0, 1, 1)
    await produce(broker, f"{prefix}events.dead-letter", 0)
    await commit(broker, f"{prefix}boost-streams", TopicPartition(f"{prefix}raw-events", 0), 2)
    await commit(broker, f"{prefix}boost-streams", TopicPartition(f"{prefix}raw-events", 1), 2)
    result = await run("topics", "--json", KAFKA_TOPIC_PREFIX=prefix)
    measured = json.loads(result.stdout)
    raw = {one["partition"]: one for one in measured["partitions"] if one["topic"].endswith("raw-events")}
    assert [(raw[n]["end"], raw[n]["committed"], raw[n]["lag"]) for n in range(3)] == [
        (3, 2, 1),
        (2, 2, 0),
        (0, None, 0),
    ]
    assert 0 < raw[0]["seconds"] < 60
    assert raw[1]["seconds"] == raw[2]["seconds"] == 0
    dead = [one for one in measured["partitions"] if one["topic"].endswith("dead-letter")]
    assert {(one["group"], one["lag"]) for one in dead} == {(None, None)}
    assert f"{prefix}events.user" in measured["missing"]

    table = await run("topics", KAFKA_TOPIC_PREFIX=prefix)
    assert table.exit_code == 0
    [row] = [line for line in table.stdout.splitlines() if "raw-events" in line]
    assert row.split()[1:5] == ["4", "5", "4", "1"]


async def test_broker_without_our_topics_is_no_error(run: Run) -> None:
    prefix = f"none{uuid4().hex[:8]}."
    result = await run("topics", KAFKA_TOPIC_PREFIX=prefix)
    assert result.exit_code == 0
    assert "not there yet, the broker makes each when it is first used: " in result.stderr
    assert f"{prefix}events.dead-letter" in result.stderr
    said = (await run("topics", KAFKA_TOPIC_PREFIX=prefix, BOOST_EMBEDDED_BROKER="false")).stderr
    assert "not there yet, made when a worker starts, or by the broker of boost dev when first used: " in said


async def test_broker_that_is_away_is_said_in_a_line(run: Run) -> None:
    result = await run("topics", KAFKA_BROKER="127.0.0.1:1")
    assert result.exit_code == 1
    assert "does not answer" in result.stderr


@pytest.mark.parametrize("name", ["payment", "events.payment", "t.events.payment"])
async def test_a_topic_is_paused_and_goes_on(run: Run, database: Database, name: str) -> None:
    prefix = {"KAFKA_TOPIC_PREFIX": "t."}
    paused = await run("topics", "pause", name, "--reason", "before a deploy", **prefix)
    assert paused.stdout == (
        f"t.events.payment is paused, workers hold it within about a second; boost topics resume {name} lets it go on\n"
    )
    assert (await run("topics", "pause", name, **prefix)).stdout == "t.events.payment is paused already\n"
    async with database.across_projects() as connection:
        (row,) = await pauses_across_projects(connection)
    assert (row.topic, row.reason, row.handler, row.worker_id) == ("t.events.payment", "before a deploy", None, None)
    assert "before a deploy" in (await run("topics", **prefix)).stdout
    listed = json.loads((await run("topics", "list", "--json", **prefix)).stdout)
    assert [one["topic"] for one in listed["paused"]] == ["t.events.payment"]
    assert "t.events.payment is paused: before a deploy" in (await run("doctor", **prefix)).stdout
    assert (await run("topics", "resume", name, **prefix)).stdout == "t.events.payment goes on within about a second\n"
    assert (await run("topics", "resume", name, **prefix)).stdout == "t.events.payment was not paused\n"
    async with database.across_projects() as connection:
        assert await pauses_across_projects(connection) == []


async def test_what_cannot_be_paused_is_refused(run: Run) -> None:
    result = await run("topics", "pause", "raw-events")
    assert result.exit_code == 2
    assert "give one of default, events.default" in result.stderr


async def test_topics_are_shown_while_postgresql_is_away(run: Run) -> None:
    result = await run("topics", "--json", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (result.exit_code, json.loads(result.stdout)["paused"]) == (0, None)
    assert "which topics are paused is not known" in result.stderr


def test_partitions_of_a_topic_add_up() -> None:
    def one(partition: int, committed: int | None, lag: int, seconds: float | None) -> PartitionLag:
        return PartitionLag("t", partition, 10, "g", committed, lag, seconds)

    partitions = [one(0, 4, 6, 1.5), one(1, None, 10, 9.0), one(2, 10, 0, None)]
    assert list(per_topic(partitions)) == [PartitionLag("t", 3, 30, "g", 14, 16, 9.0)]


# -- boost doctor ------------------------------------------------------------------------------------------------


def levels(result: Result) -> dict[str, str]:
    """Return the level of each line of the report, by what was looked at."""
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines() if line.startswith(("ok", "warn", "error"))]
    return {name: level for level, name, _ in lines}


async def test_healthy_installation(run: Run, database: Database) -> None:
    async with database.across_projects() as connection:
        await heartbeat_across_projects(connection, WORKER, "here", "http://here", ["web"], 0)
    result = await run("doctor", "--deep")
    found = levels(result)
    durability = found.pop("durability")
    assert durability in ("ok", "warn")  # a throwaway server does not flush
    assert found.pop("redis") == "warn"  # none is set
    names = ["settings", "postgresql", "roles", "migrations", "partitions", "workers", "backlog", "kafka"]
    assert found == dict.fromkeys([*names, "events", "batches"], "ok"), result.output
    assert result.exit_code == 0


async def test_a_broker_that_does_not_tell_its_topic_settings_is_no_error(run: Run, broker: str) -> None:
    mend_closed_connections()  # as workers do, for as long as the process lives: the answer is the same
    prefix = f"t{uuid4().hex[:8]}."
    await produce(broker, f"{prefix}raw-events", 0)
    result = await run("doctor", BOOST_EMBEDDED_BROKER="false", KAFKA_TOPIC_PREFIX=prefix)
    found = levels(result)
    assert (result.exit_code, found.get("kafka"), found.get("topics")) == (0, "ok", "warn"), result.output
    assert "this broker does not tell its topic settings" in result.stdout


async def test_wrong_settings_are_all_named(run: Run) -> None:
    result = await run("doctor", KAFKA_BROKER="nonsense", PORT="0")
    assert result.exit_code == 2
    assert "KAFKA_BROKER" in result.stdout
    assert "PORT" in result.stdout


async def test_what_is_away_is_an_error_with_advice(run: Run) -> None:
    away = {"DATABASE_URL": "postgresql://postgres:secret@127.0.0.1:1/x", "KAFKA_BROKER": "127.0.0.1:1"}
    result = await run("doctor", REDIS_URL="redis://127.0.0.1:1/0", **away)
    assert result.exit_code == 1
    assert levels(result) == {"settings": "ok", "postgresql": "error", "kafka": "error", "redis": "warn"}
    assert "check DATABASE_URL" in result.stdout
    assert "check KAFKA_BROKER" in result.stdout
    assert "secret" not in result.output


async def test_database_without_a_schema(run: Run, empty_database_url: str) -> None:
    result = await run("doctor", DATABASE_URL=empty_database_url)
    assert (result.exit_code, levels(result)["migrations"]) == (1, "error")
    assert "boost migrate" in result.stdout


async def test_missing_partitions(run: Run, database: Database) -> None:
    owner = await database.connect(role="boost_owner")
    names = [partition_name(day) for day in sorted(await existing_days(owner))]
    await owner.execute(f"ALTER TABLE events DETACH PARTITION {names[-1]}")
    assert levels(await run("doctor"))["partitions"] == "warn"
    for name in names[:-1]:
        await owner.execute(f"ALTER TABLE events DETACH PARTITION {name}")
    await owner.close()
    result = await run("doctor")
    assert (result.exit_code, levels(result)["partitions"]) == (1, "error")


async def test_stuck_events_are_a_warning(run: Run, database: Database, project: Any) -> None:
    await store(database, project.id, "click")
    async with database.across_projects() as connection:
        await connection.execute("UPDATE event_batches SET created_at = now() - interval '1 day'")
    result = await run("doctor")
    assert (result.exit_code, levels(result)["backlog"]) == (0, "warn")


async def test_lost_event_is_found_and_named(run: Run, database: Database, project: Any) -> None:
    [lost] = await store(database, project.id, "click")
    [other] = await store(database, project.id, "click")
    async with database.across_projects() as connection:
        await connection.execute("DELETE FROM event_batches WHERE id = $1", batch_of(lost))
        await connection.execute("UPDATE event_batches SET unsettled = 0 WHERE id = $1", batch_of(other))
    result = await run("doctor", "--deep")
    assert result.exit_code == 1
    assert f"project {project.id} event {lost} attempt 0" in result.stdout
    assert f"batch {batch_of(other)} counts 0 unsettled, 1 are pending" in result.stdout
    assert (levels(result)["events"], levels(result)["batches"]) == ("error", "error")
    assert levels(await run("doctor")).get("events") is None
