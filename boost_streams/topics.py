"""Every topic: its record, partitions, retention, who writes and who reads; created or checked at start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, TopicAlreadyExistsError

from boost_streams.errors import BrokerAway, FieldProblem, TopicMismatch, TopicSettingsUntold
from boost_streams.kafka_client import client_options
from boost_streams.records import DeadLetter, HandlerBatch, RawEventBatch, SettledDeltas
from boost_streams.settings import Settings

RAW_EVENTS = "raw-events"
SETTLED = "events.settled"
DEAD_LETTER = "events.dead-letter"
FAMILIES = ("tracking", "user", "payment", "default")

#: The consumer group, and so the Faust app's id.
GROUP = "boost-streams"
#: Live views' table, as Faust names its changelog.
LIVE_COUNTS_TABLE = "live_counts"

#: librdkafka's in-process broker gives every topic this many partitions, whatever is asked.
EMBEDDED_PARTITIONS = 4

_DAY_MS = 86_400_000
#: How often a topic that was just created is looked for until every broker knows it (seconds).
_SETTLE_SECONDS = 0.1
#: Answers of a cluster that is still starting: no leader, timed out, coordinator loading or away, no controller.
_PASSING = (5, 7, 14, 15, 41)
_LIMIT = "max.message.bytes"
_SMALLEST_LIMIT = 4 * 1024 * 1024


def family_topic(family: str) -> str:
    """Return the topic (without prefix) that feeds a handler family."""
    return f"events.{family}"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it must be on the broker."""

    name: str
    record_type: type[msgspec.Struct] | None
    partitions: int
    replication_factor: int
    max_message_bytes: int
    config: dict[str, str] = field(default_factory=dict)
    written_by: str = ""
    read_by: str = ""


def max_message_bytes(settings: Settings) -> int:
    """Return the largest message (bytes) that our topics must take.

    A commit is bounded to 512 KiB, but one event may be as large as MAX_EVENT_BYTES, and `jsonb` writes a number
    such as 1e300 out in full when the sweeper reads it back: up to 60 times its length.
    """
    return max(_SMALLEST_LIMIT, 64 * settings.max_event_bytes)


def partitions_of(settings: Settings) -> int:
    """Return how many partitions every topic has."""
    return EMBEDDED_PARTITIONS if settings.boost_embedded_broker else settings.kafka_topic_partitions


def full_name(settings: Settings, topic: str) -> str:
    """Return a topic's name on the broker, with the installation's prefix."""
    return f"{settings.kafka_topic_prefix}{topic}"


def group_id(settings: Settings) -> str:
    """Return the consumer group's name, with the installation's prefix."""
    return full_name(settings, GROUP)


def topic_specs(settings: Settings) -> list[TopicSpec]:
    """List every topic of an installation, the live table's changelog included."""
    retention = {"retention.ms": str(3 * _DAY_MS), "cleanup.policy": "delete"}
    rows: list[tuple[str, type[msgspec.Struct] | None, dict[str, str], str, str]] = [
        (RAW_EVENTS, RawEventBatch, retention, "intake, sweeper, replay", "dispatcher"),
        *((family_topic(family), HandlerBatch, retention, "dispatcher", f"{family} agent") for family in FAMILIES),
        (SETTLED, SettledDeltas, {**retention, "retention.ms": str(_DAY_MS)}, "settlement", "aggregator"),
        (DEAD_LETTER, DeadLetter, {**retention, "retention.ms": str(30 * _DAY_MS)}, "settlement", "operators"),
        (f"{GROUP}-{LIVE_COUNTS_TABLE}-changelog", None, {"cleanup.policy": "compact"}, "aggregator", "aggregator"),
    ]
    return [
        TopicSpec(
            name=full_name(settings, name),
            record_type=record_type,
            partitions=partitions_of(settings),
            replication_factor=settings.replication_factor,
            max_message_bytes=max_message_bytes(settings),
            config=config,
            written_by=written_by,
            read_by=read_by,
        )
        for name, record_type, config, written_by, read_by in rows
    ]


async def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing and check those that exist; return the names of the created ones.

    Raises:
        BrokerAway: No broker answers.
        TopicMismatch: A topic exists with other partitions, replication or a smaller message limit.
    """
    if settings.boost_embedded_broker:
        return []
    specs = topic_specs(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        async with asyncio.timeout(20):
            await admin.start()
            existing = set(await admin.list_topics())
            created = [spec.name for spec in specs if spec.name not in existing and await _create(admin, spec)]
            while not {spec.name for spec in specs} <= set(await admin.list_topics()):  # noqa: ASYNC110 - asked of Kafka
                await asyncio.sleep(_SETTLE_SECONDS)
            problems = await _mismatches(admin, [spec for spec in specs if spec.name in existing])
    except (KafkaError, OSError, TimeoutError, AttributeError) as error:
        # AttributeError: aiokafka's admin client while the cluster has no controller.
        raise BrokerAway(f"the topics could not be checked: {type(error).__name__}: {error}") from error
    finally:
        await admin.close()
    if problems:
        lines = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        raise TopicMismatch(f"existing topics do not fit the settings. {lines}", problems=tuple(problems))
    return created


async def check_topics(settings: Settings) -> tuple[list[str], list[FieldProblem]]:
    """Return the names of the topics that are missing, and what does not fit about the others; creates nothing.

    Raises:
        BrokerAway: No broker answers.
        TopicSettingsUntold: It does not tell how they are set.
    """
    specs = topic_specs(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        async with asyncio.timeout(20):
            await admin.start()
            existing = set(await admin.list_topics())
            problems = await _mismatches(admin, [spec for spec in specs if spec.name in existing])
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerAway(f"the topics could not be checked: {str(error) or type(error).__name__}") from error
    finally:
        await admin.close()
    return [spec.name for spec in specs if spec.name not in existing], problems


async def weak_topics(settings: Settings) -> list[FieldProblem]:
    """Return what existing topics are set to that lets Kafka lose messages it has acknowledged.

    No event is lost by it, since PostgreSQL publishes again what is not settled; but that takes its time.

    Raises:
        BrokerAway: No broker answers.
    """
    if settings.boost_embedded_broker:
        return []
    specs = topic_specs(settings)
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        async with asyncio.timeout(20):
            await admin.start()
            configs = await _configs(admin, sorted({spec.name for spec in specs} & set(await admin.list_topics())))
    except (KafkaError, OSError, TimeoutError) as error:
        raise BrokerAway(f"the topics could not be checked: {str(error) or type(error).__name__}") from error
    finally:
        await admin.close()
    return [problem for spec in specs for problem in weaknesses(spec, configs.get(spec.name, {}))]


def weaknesses(spec: TopicSpec, config: Mapping[str, str]) -> list[FieldProblem]:
    """Return what a topic's configuration lets Kafka lose, and how to change it."""
    found = []
    change = f"kafka-configs --alter --topic {spec.name} --add-config"
    if config.get("unclean.leader.election.enable") == "true":
        message = "may be led by a broker that lacks acknowledged messages; set "
        found.append(FieldProblem(spec.name, f"{message}{change} unclean.leader.election.enable=false"))
    if spec.replication_factor >= 3 and int(config.get("min.insync.replicas", "2")) < 2:
        message = "acknowledges what one broker alone has; set "
        found.append(FieldProblem(spec.name, f"{message}{change} min.insync.replicas=2"))
    return found


async def _create(admin: Any, spec: TopicSpec) -> bool:
    """Create a topic; False when somebody else just did."""
    config = {**spec.config, "max.message.bytes": str(spec.max_message_bytes)}
    if spec.replication_factor >= 3:
        config["min.insync.replicas"] = "2"
    topic = NewTopic(spec.name, spec.partitions, spec.replication_factor, topic_configs=config)
    response = await admin.create_topics([topic])
    code, message = response.topic_errors[0][1], response.topic_errors[0][2]
    if code in _PASSING:
        raise BrokerAway(f"topic {spec.name} could not be created yet (error {code}: {message})")
    if code not in (0, TopicAlreadyExistsError.errno):
        raise TopicMismatch(
            f"topic {spec.name} could not be created (error {code}: {message}); with fewer brokers than "
            f"KAFKA_REPLICATION_FACTOR={spec.replication_factor}, lower it or add brokers"
        )
    return bool(code == 0)


async def _mismatches(admin: Any, specs: list[TopicSpec]) -> list[FieldProblem]:
    if not specs:
        return []
    described = {topic["topic"]: topic for topic in await admin.describe_topics([spec.name for spec in specs])}
    configs = await _configs(admin, [spec.name for spec in specs])
    limits = {name: int(config[_LIMIT]) for name, config in configs.items() if _LIMIT in config}
    problems = []
    for spec in specs:
        partitions = described[spec.name]["partitions"]
        replicas = min((len(partition["replicas"]) for partition in partitions), default=0)
        if len(partitions) != spec.partitions:
            problems.append(
                FieldProblem(
                    spec.name,
                    f"has {len(partitions)} partitions, KAFKA_TOPIC_PARTITIONS asks for {spec.partitions}; set the "
                    "variable to what the topics have, or give every topic as many (kafka-topics --alter)",
                )
            )
        if replicas < spec.replication_factor:
            problems.append(
                FieldProblem(
                    spec.name,
                    f"has {replicas} replicas, KAFKA_REPLICATION_FACTOR asks for {spec.replication_factor}; reassign "
                    "its partitions (kafka-reassign-partitions) or change the variable",
                )
            )
        if limits.get(spec.name, spec.max_message_bytes) < spec.max_message_bytes:
            problems.append(
                FieldProblem(
                    spec.name,
                    f"takes messages of {limits[spec.name]} bytes, {spec.max_message_bytes} are needed: "
                    f"kafka-configs --alter --topic {spec.name} "
                    f"--add-config max.message.bytes={spec.max_message_bytes}",
                )
            )
    return problems


async def _configs(admin: Any, names: list[str]) -> dict[str, dict[str, str]]:
    """Return the configuration of topics, defaults included."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    try:
        responses = await admin.describe_configs(resources)
    except IncompatibleBrokerVersion as error:
        raise TopicSettingsUntold("this broker does not tell its topic settings") from error
    for response in responses:
        for resource in response.resources:
            configs[resource[3]] = {entry[0]: entry[1] for entry in resource[4]}
    return configs
