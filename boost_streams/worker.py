"""What a worker consists of: the one place that imports everything and wires it.

faust -A boost_streams.worker worker -l info
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import sys
import time
from typing import Any
from uuid import UUID

import uuid_utils

from agents.aggregator import Aggregator
from agents.care import Care
from agents.dead_letters import DeadLetters
from agents.dispatcher import Dispatcher
from agents.failing_share import FailingShare
from agents.handlers import load_registry
from agents.handling import HandlerLoop
from agents.housekeeping import Housekeeping
from agents.isolated import IsolatedHandlers
from agents.notices import SettledNotices
from agents.pauses import REFRESH_SECONDS, Pauses
from agents.positions import ConsumerPositions
from agents.postponing import Postponing
from agents.progress import ConsumerProgress
from agents.registry import Registry
from agents.services import HandlerServices
from agents.settlement import Settlement
from agents.stall_watch import StallWatch
from agents.streams import leave_without_acknowledging, run_agent
from agents.sweeper import CLAIMS_AT_ONCE, Hops, Sweeper
from agents.takeovers import Takeovers
from boost_streams.app import create_app
from boost_streams.broker_gate import EXIT_CONFIGURATION
from boost_streams.errors import ConfigurationError
from boost_streams.giving_way import GivingWay
from boost_streams.kafka_client import mend_closed_connections
from boost_streams.ledger import Ledger
from boost_streams.logs import get_logger
from boost_streams.pace import Pace
from boost_streams.process import end_at_once, start_watchdog, tune
from boost_streams.publishing import Publisher
from boost_streams.records import DeadLetter, RawEventBatch, SettledDeltas, UnreadBatch, UnreadHandlerBatch
from boost_streams.schema import RecordSchema
from boost_streams.settings import Settings, load_settings
from boost_streams.topics import (
    DEAD_LETTER,
    FAMILIES,
    RAW_EVENTS,
    SETTLED,
    family_topic,
    full_name,
    partitions_of,
)
from boost_streams.transport import use_acknowledged_commits
from db.holders import let_go_across_projects
from db.pool import Database
from db.redis import Redis
from tables.live_counts import live_counts_table
from web.auth import Authenticator
from web.connection import HttpConnection
from web.fast_path import FastPath
from web.health import Health
from web.intake import Intake
from web.live import TableLiveCounts
from web.middleware import MIDDLEWARES
from web.outbox import Outbox
from web.routes import register
from web.services import SERVICES, WebServices

#: How often the sweeper looks for what is known to be unpublished, and for retries that are due (seconds).
URGENT_SECONDS = 1.0
#: From SIGTERM: requests in flight and messages in hand get this long (seconds), then the process must end
#: (`boost_streams/process.py`).
DRAIN_SECONDS = 4.0
#: From SIGTERM: requests on connections that a client kept open are answered for so long (seconds).
KEEP_ALIVE_SECONDS = 1.0
CLOSE_SECONDS = 2.5

_log = get_logger(__name__)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Worker:
    """The parts of one worker process, wired by their constructor; nothing is connected before the app starts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_draining = False
        roles = set(settings.boost_roles)
        self.consumes = "agents" in roles
        self.app = create_app(settings, {"client_max_size": settings.max_body_bytes, "middlewares": MIDDLEWARES})
        self.app.producer_only = not self.consumes
        self.app.conf.web_enabled = True
        self.app.leave_bodies_encoded()
        self.database = Database(settings.database_url)
        self.redis = Redis(settings.redis_url)
        self.ledger = Ledger(
            UUID(int=uuid_utils.uuid7().int), socket.gethostname(), settings.canonical_url, settings.boost_roles
        )
        self.progress = ConsumerProgress()
        self.giving_way = GivingWay()
        self.pace = Pace(self.giving_way.events_per_second)
        self.app.records.between_sends = self.pace.between_sends
        hop_topics = [full_name(settings, RAW_EVENTS), *(full_name(settings, family_topic(f)) for f in FAMILIES)]
        self.hops = Hops(hop_topics[0], tuple(hop_topics[1:]), partitions_of(settings))
        self.hop_topics = frozenset(hop_topics)
        use_acknowledged_commits(
            self.app, self.progress, hop_topics, self.pace, embedded_broker=settings.boost_embedded_broker
        )
        self.positions = ConsumerPositions(
            self.app, self.progress, hop_topics, lambda: self.app.broker_state.worth_trying
        )
        self.raw = self._publisher(RAW_EVENTS, RawEventBatch)
        self.pauses = Pauses(self.database, self.ledger.worker_id, self.progress, self.positions.read_again)
        self.takeovers = Takeovers(
            self.database, self.ledger.worker_id, self.progress, lambda: self.app.consumer.assignment()
        )
        self.housekeeping = Housekeeping(
            settings,
            self.database,
            self.ledger,
            self._positions_or_nothing,
            refuse=_leave_misconfigured,
            also=[(REFRESH_SECONDS, "pauses", self.pauses.refresh)] if self.consumes else [],
        )
        self.app.own_services = [self.housekeeping, *([StallWatch(settings)] if self.consumes else [])]
        self.sweeper = Sweeper(
            self.database,
            self.raw,
            self.ledger,
            self.hops,
            stuck_after_seconds=settings.sweep_stuck_after_seconds,
            batch_size=settings.sweep_batch_size,
            claims_at_once=1 if "web" in roles else CLAIMS_AT_ONCE,
            giving_way=self.giving_way,
        )
        self.app.before_stop.append(self.drain)
        table = live_counts_table(self.app, partitions_of(settings)) if self.consumes else None
        self._wire_web("web" in roles, table)
        if self.consumes:
            self._wire_agents(table)
        if "sweeper" in roles:
            self._wire_sweeper()
        self.app.after_stop.append(self.leave)

    def _publisher(self, topic: str, record_type: Any) -> Publisher:
        name = full_name(self.settings, topic)
        return Publisher(self.app.records.topic(name, record_type), self.app.broker_state)

    def _topic(self, topic: str, record_type: Any) -> Any:
        return self.app.topic(
            full_name(self.settings, topic), schema=RecordSchema(record_type), partitions=partitions_of(self.settings)
        )

    # -- roles -----------------------------------------------------------------------------------------------

    def _wire_web(self, ingests: bool, table: Any | None) -> None:
        self.outbox = Outbox(self.database, self.raw, self.ledger)
        self.intake = Intake(
            self.database,
            self.outbox,
            self.ledger,
            stuck_after_seconds=self.settings.sweep_stuck_after_seconds,
            most_waiting_bytes=self.settings.max_waiting_bytes,
            takes_in_only=not self.consumes,
            giving_way=self.giving_way,
        )
        self.authenticator = Authenticator(self.database, self.redis, self.settings)
        services = WebServices(
            settings=self.settings,
            database=self.database,
            authenticator=self.authenticator,
            intake=self.intake,
            health=Health(self.settings, self.database, self),
            live=TableLiveCounts(self.app, table, self.database, partitions_of(self.settings)),
            now=_now,
        )
        self.app.http[SERVICES] = services
        self.app.make_connections(FastPath(services, self.draining).connection if ingests else HttpConnection)
        self.app.http.on_startup.append(self._start_web)
        register(self.app, everything=ingests)

    async def _start_web(self, _: Any) -> None:
        await self.intake.start()
        await self.authenticator.start()
        tune()

    def _wire_agents(self, table: Any) -> None:
        registry = _registry_of(self.settings)
        self.ledger.handlers.update((handler.name, handler.version) for handler in registry.handlers)
        dead_letters = DeadLetters(self._publisher(DEAD_LETTER, DeadLetter), self.database, _now)
        settlement = Settlement(self.database, registry=registry, now=_now)
        postponing = Postponing(self.database, self.sweeper.sent_back.update)
        notices = SettledNotices(self._publisher(SETTLED, SettledDeltas), _now)
        self.app.before_stop.append(notices.flush)
        family_topics = {family: self._topic(family_topic(family), UnreadHandlerBatch) for family in FAMILIES}
        dispatcher = Dispatcher(
            registry,
            {family: self._publisher(family_topic(family), UnreadHandlerBatch) for family in FAMILIES},
            dead_letters,
            self.progress,
            postponing,
            self.takeovers,
            self.giving_way,
            self.pace,
        )
        self._agent("dispatcher", self._topic(RAW_EVENTS, UnreadBatch), dispatcher)
        services = HandlerServices(self.settings, self.database, self.redis)
        for family, topic in family_topics.items():
            isolated = IsolatedHandlers(registry, self.settings)
            care = Care(registry, services, self.takeovers, isolated, dead_letters.malformed)
            failing = FailingShare(
                family,
                registry,
                limit=self.settings.handler_failing_share,
                least=self.settings.handler_failing_least,
            )
            loop = HandlerLoop(
                family,
                registry,
                settlement,
                self.progress,
                dead_letters,
                notices,
                care,
                self.pauses,
                failing,
                _now,
                postponing,
                self.giving_way,
                self.pace,
            )
            self._agent(family, topic, loop)
        self.app.on_partitions_revoked.connect(self._forget_partitions)
        self._agent("aggregator", self._topic(SETTLED, SettledDeltas), Aggregator(table, dead_letters))

    async def _forget_partitions(self, *_: Any, **__: Any) -> None:
        self.takeovers.forget()

    def _agent(self, name: str, topic: Any, loop: Any) -> None:
        async def agent(stream: Any) -> None:
            await run_agent(name, loop.run(stream))

        self.app.agent(topic, name=f"agents.{name}", concurrency=1)(agent)

    def _wire_sweeper(self) -> None:
        @self.app.timer(interval=self.settings.sweep_interval_seconds, name="sweeper")  # type: ignore[untyped-decorator]
        async def sweep_stuck() -> None:
            if not self.started_draining:
                await self.sweeper.sweep_stuck()

        @self.app.timer(interval=URGENT_SECONDS, name="sweeper_urgent")  # type: ignore[untyped-decorator]
        async def sweep_unpublished() -> None:
            if not self.started_draining:
                await self.sweeper.sweep_unpublished()

    # -- what health asks ------------------------------------------------------------------------------------

    def broker_problem(self) -> str | None:
        """Say why the broker counts as away."""
        return self.app.broker_state.problem

    def assignment_problem(self) -> str | None:
        """Say why this worker has no partitions; a worker without agents needs none."""
        if not self.consumes or self.positions.assigned():
            return None
        return "partitions are not assigned yet: the consumer group is joining or rebalancing"

    def draining(self) -> bool:
        """Tell whether this worker is stopping."""
        return self.started_draining

    async def _publish_again_if_topics_are_new(self) -> None:
        made = self.app.broker_state.topics_made & self.hop_topics
        if made or self.progress.made_anew:
            await self.sweeper.release_published()
            self.app.broker_state.topics_made -= made
            self.progress.made_anew.clear()

    async def _positions_or_nothing(self) -> Any:
        if not self.consumes:
            await self._publish_again_if_topics_are_new()
            return None
        try:
            positions = await self.positions()
            await self._publish_again_if_topics_are_new()
            return positions
        except TimeoutError:
            if self.positions.stalled:
                _log.error("the consumer is stuck; leaving without acknowledging", action="consumer_stuck")
                leave_without_acknowledging()
            raise

    # -- stop ------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stop listening, answer what is in flight, commit and publish it, let agents finish what is in hand."""
        self.started_draining = True
        self.progress.closed = True
        start_watchdog()
        _log.info("draining", action="drain", worker_id=str(self.ledger.worker_id))
        started = time.monotonic()
        deadline = started + DRAIN_SECONDS
        self.app.http[SERVICES].closing = True
        await self.app.stop_listening()
        await self.app.end_connections(max(0.0, started + KEEP_ALIVE_SECONDS - time.monotonic()))
        await self.intake.drain(DRAIN_SECONDS / 2)
        while self.progress.in_hand and time.monotonic() < deadline:  # noqa: ASYNC110 - polled only while stopping
            await asyncio.sleep(0.02)

    async def _let_go(self) -> None:
        """Say that nothing is in hand any more; what is, the next worker handles with care."""
        if self.consumes and not self.progress.in_hand and self.housekeeping.opened.is_set():
            async with self.database.across_projects() as connection:
                await let_go_across_projects(connection, self.ledger.worker_id)

    async def leave(self) -> None:
        """Hand over what is not accounted for, and close."""
        for close in (
            self.outbox.release,
            self._let_go,
            self.housekeeping.leave,
            self.intake.stop,
            self.authenticator.stop,
            self.redis.close,
            self.database.close,
        ):
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await close()
            except Exception as error:
                _log.warning(
                    "not closed in order", action="stop", error=f"{close.__qualname__}: {type(error).__name__}"
                )
        _log.info("stopped", action="stop", worker_id=str(self.ledger.worker_id))
        if not self.app.crashed:
            # Everything is closed; what mode would still do is sleep for two to three seconds.
            end_at_once(EXIT_CONFIGURATION if self.app.gate.mismatch else self.app.exit_code)


def _leave_misconfigured() -> None:
    """End the process before it has done anything: what its servers are set to, which the log says, loses events."""
    end_at_once(EXIT_CONFIGURATION)


def _registry_of(settings: Settings) -> Registry:
    try:
        return load_registry(settings.boost_handler_modules)
    except (ImportError, TypeError, ValueError) as error:
        sys.stderr.write(f"BOOST_HANDLER_MODULES: {error}\n")
        raise SystemExit(EXIT_CONFIGURATION) from error


def create_worker() -> Worker:
    """Read the settings and build a worker; wrong settings end the process with exit code 2 and no traceback."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(2) from None
    if sys.platform != "win32":
        import uvloop

        uvloop.install()
        mend_closed_connections()
    return Worker(settings)


worker = create_worker()
app = worker.app
