"""The Faust app: settings that FAUST.md's measurements ask for, and the order in which its parts start.

The web server starts first and stops last; everything that needs the broker waits behind `BrokerGate`, so that a
worker started while the broker is away takes events all the same.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import faust
from aiohttp.web import AppRunner, RequestHandler, Server
from faust.app.base import BootStrategy
from mode import Service, ServiceT

from boost_streams.broker_gate import BrokerGate
from boost_streams.kafka_client import ssl_context
from boost_streams.listener import accept_what_waits, end_connections
from boost_streams.logs import configure_structlog, get_logger, logging_config
from boost_streams.monitor import QuietMonitor
from boost_streams.producer import RecordProducer
from boost_streams.publishing import BrokerState
from boost_streams.settings import Settings
from boost_streams.topics import ensure_topics, group_id, max_message_bytes, partitions_of, topic_specs

#: How often a worker looks whether its topics are still there (seconds).
TOPICS_SECONDS = 3.0
#: How old what a client knows of topics may be (milliseconds).
METADATA_MS = 5000
#: How long requests that are being answered may take once the worker stops (seconds).
HANDLERS_SECONDS = 2.0
#: How long clients may take to close what was closed for writing (seconds).
LINGER_SECONDS = 0.2
#: The worker's exit code when it cannot start, but for a wrong configuration.
EXIT_NOT_STARTED = 1

_log = get_logger(__name__)

Hook = Callable[[], Awaitable[None]]
#: Makes the protocol of one HTTP connection, from aiohttp's server and its options.
ConnectionFactory = Callable[..., RequestHandler]


class OwnServer(Server):
    """aiohttp's server, with connections of our own making."""

    def __init__(self, server: Server, factory: ConnectionFactory) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            loop=server._loop,
            **server._kwargs,
        )
        self._factory = factory

    def __call__(self) -> RequestHandler:
        """Make what answers a new connection."""
        return self._factory(self, loop=self._loop, **self._kwargs)


class OwnRunner(AppRunner):
    """aiohttp's runner of an application, whose connections may be of our own making."""

    connection_factory: ConnectionFactory = RequestHandler

    async def _make_server(self) -> Server:
        return OwnServer(await super()._make_server(), self.connection_factory)


class Boot(BootStrategy):
    """Web first, then the gate, then what needs the broker."""

    def server(self) -> Iterable[ServiceT]:
        """Return the services of a worker that consumes, in the order of their start."""
        app = self.app
        assert isinstance(app, BoostApp)
        return self._chain(
            self.sensors(),
            app.own_services,
            self.web_server(),
            [app.gate],
            self.kafka_producer(),
            [app.records, app.producer_ready],
            self.kafka_consumer(),
            self.agents(),
            self.kafka_conductor(),
            self.tables(),
        )

    def producer_only(self) -> Iterable[ServiceT]:
        """Return the services of a worker that consumes nothing."""
        app = self.app
        assert isinstance(app, BoostApp)
        return self._chain(
            app.own_services,
            self.web_server(),
            [app.gate],
            self.kafka_producer(),
            [app.records, app.producer_ready],
        )


class ProducerReady(Service):
    """Marks the moment from which messages can be sent, and watches the broker from then on."""

    logger = logging.getLogger(__name__)

    def __init__(self, app: faust.App, settings: Settings, state: BrokerState, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._app = app
        self._settings = settings
        self._state = state

    async def on_start(self) -> None:
        """Let publishers send."""
        self._state.ready = True
        self._state.taken()

    @Service.task
    async def _watch(self) -> None:
        await self._state.watch(self._ask)

    @Service.task
    async def _keep_topics(self) -> None:
        """Make topics that went away while this worker runs: a Kafka that lost its disk comes back empty."""
        while not self.should_stop:
            await self.sleep(TOPICS_SECONDS)
            if not self._state.worth_trying:
                continue
            try:
                async with asyncio.timeout(TOPICS_SECONDS * 4):
                    await self._make_missing_topics()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.warning(
                    "topics not looked after", action="topics_create", error=f"{type(error).__name__}: {error}"
                )

    async def _make_missing_topics(self) -> None:
        producer: Any = self._app.producer
        metadata = await producer._producer.client.fetch_all_metadata()
        if {spec.name for spec in topic_specs(self._settings)} <= metadata.topics():
            return
        created = await ensure_topics(self._settings)
        self._state.topics_made.update(created)
        if created:
            _log.warning("topics were gone and are made again", action="topics_create", count=len(created))

    async def _ask(self) -> None:
        producer: Any = self._app.producer
        await producer._producer.client.fetch_all_metadata()

    async def on_stop(self) -> None:
        """Stop publishers from sending: the producer goes next."""
        self._state.ready = False


class BoostApp(faust.App):
    """A Faust app with our order of start and with hooks around its stop."""

    BootStrategy = Boot

    def __init__(self, *args: Any, boost_settings: Settings, broker_state: BrokerState, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.boost_settings = boost_settings
        self.broker_state = broker_state
        self.gate = BrokerGate(boost_settings, broker_state)
        self.records = RecordProducer(boost_settings)
        self.producer_ready = ProducerReady(self, boost_settings, broker_state)
        self.own_services: list[ServiceT] = []
        self.before_stop: list[Hook] = []
        self.after_stop: list[Hook] = []
        #: What the process ends with when it could not start.
        self.exit_code = 0

    @property
    def http(self) -> Any:
        """The aiohttp application behind Faust's web server."""
        return self.web.web_app  # type: ignore[attr-defined]

    def leave_bodies_encoded(self) -> None:
        """Hand bodies over as they were sent: `web/body.py` decodes them, within its limits. Before the start."""
        web: Any = self.web
        web._runner = OwnRunner(web.web_app, access_log=None, auto_decompress=False)

    def make_connections(self, factory: ConnectionFactory) -> None:
        """Have `factory` make what answers each connection in place of aiohttp's own. Before the start."""
        runner: OwnRunner = self.web._runner  # type: ignore[attr-defined]
        runner.connection_factory = factory

    async def start(self) -> None:
        """Start everything; what fails makes the process end with an exit code that says so.

        Raises:
            SystemExit: The port is taken, which the log says.
        """
        try:
            await super().start()
        except asyncio.CancelledError:
            raise
        except OSError as error:
            self.exit_code = EXIT_NOT_STARTED
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            _log.error(
                "cannot listen: choose another HOST or PORT, or stop what has it",
                action="start",
                host=self.boost_settings.host,
                port=self.boost_settings.port,
                error=os.strerror(error.errno),
            )
            raise SystemExit(EXIT_NOT_STARTED) from None
        except BaseException:
            self.exit_code = EXIT_NOT_STARTED
            raise

    async def stop_listening(self) -> None:
        """Close the listening socket, when what waits there is accepted; connections that are open go on."""
        runner: Any = self.web._runner  # type: ignore[attr-defined]
        runner._shutdown_timeout = HANDLERS_SECONDS
        for site in list(runner.sites):
            await accept_what_waits(site._server.sockets if site._server is not None else ())
            await site.stop()

    async def end_connections(self, grace: float) -> None:
        """Answer what comes on open connections for `grace` seconds more, then end those that are idle."""
        runner: Any = self.web._runner  # type: ignore[attr-defined]
        if runner.server is not None:
            await end_connections(runner.server, grace=grace, linger=LINGER_SECONDS)

    async def on_stop(self) -> None:
        """Drain before Faust stops anything."""
        await _run(self.before_stop)
        # What is in hand is done; Faust would wait for messages that nobody takes any more.
        self.conf.stream_wait_empty = False
        await super().on_stop()

    async def on_shutdown(self) -> None:
        """Leave the list of workers and close the database, when all else has stopped."""
        await super().on_shutdown()
        await _run(self.after_stop)


async def _run(hooks: Iterable[Hook]) -> None:
    for hook in hooks:
        try:
            await hook()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("a stop hook failed", action="drain", error=str(error))


def create_app(settings: Settings, web_options: dict[str, Any]) -> BoostApp:
    """Build the Faust app of a worker; nothing is connected yet.

    Args:
        settings: The checked settings.
        web_options: Keyword arguments of the aiohttp application (middlewares, `client_max_size`).
    """
    configure_structlog()
    if settings.logs_as_json:
        _leave_out_banner()
    state = BrokerState(settings.brokers)
    return BoostApp(
        group_id(settings),
        # Faust lets variables of the environment (PRODUCER_ACKS=0) override what is set here; ours are in settings.py.
        env={},
        boost_settings=settings,
        broker_state=state,
        broker=[f"kafka://{broker}" for broker in settings.brokers],
        broker_credentials=_credentials(settings),
        # Rebalances and dead workers: docs/adr/0002.
        broker_session_timeout=6,
        broker_rebalance_timeout=8,
        broker_heartbeat_interval=1.5,
        broker_request_timeout=10,
        broker_commit_interval=0.3,
        broker_max_poll_interval=300,
        # A consumer that lost its topics hears of new ones only from metadata; the default is five minutes.
        consumer_metadata_max_age_ms=METADATA_MS,
        producer_metadata_max_age_ms=METADATA_MS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=max_message_bytes(settings),
        producer_acks=-1,
        # Events repeat their names and ids: a message of 50 shrinks to an eighth (docs/adr/0010).
        producer_compression_type="zstd",
        producer_request_timeout=10,
        producer_max_request_size=max_message_bytes(settings) + 64 * 1024,
        producer_partitioner=None,
        topic_partitions=partitions_of(settings),
        topic_replication_factor=settings.replication_factor,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_buffer_maxsize=1024,
        stream_wait_empty=True,
        store="memory://",
        # The live views are in memory: a changelog that was made anew is no reason to end the process.
        recovery_consistency_check=False,
        datadir=settings.boost_data_dir,
        autodiscover=False,
        Monitor=QuietMonitor,
        logging_config=logging_config(settings),
        worker_redirect_stdouts=False,
        web_bind=settings.host,
        web_port=settings.port,
        web_host=settings.host,
        canonical_url=settings.canonical_url,
        web_application_options=web_options,
        web_stats_enabled=False,
        web_graph_enabled=False,
        web_router_enabled=False,
        web_tables_enabled=False,
        web_metrics_enabled=False,
    )


def _leave_out_banner() -> None:
    """Have Faust's command print no table at the start: where lines are JSON, every one is."""
    from faust.cli.worker import worker

    worker.on_worker_created = lambda self, worker: None  # type: ignore[method-assign]


def _credentials(settings: Settings) -> Any:
    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            ssl_context=context,
            mechanism=settings.kafka_sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context is not None else None
