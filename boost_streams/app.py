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
from aiohttp.web import AppRunner
from faust.app.base import BootStrategy
from mode import Service, ServiceT

from boost_streams.errors import BoostError, BrokerAway, TopicMismatch
from boost_streams.kafka_client import ssl_context
from boost_streams.logs import configure_structlog, get_logger, logging_config
from boost_streams.monitor import QuietMonitor
from boost_streams.publishing import BrokerState, reachable
from boost_streams.settings import Settings
from boost_streams.topics import ensure_topics, group_id, max_message_bytes, partitions_of, topic_specs

#: How often the gate looks for a broker that is away (seconds).
_GATE_SECONDS = 0.5
#: How long requests that are being answered may take once the worker stops (seconds).
HANDLERS_SECONDS = 2.0
#: The worker's exit code when the topics do not fit the settings, and when it cannot start for any other reason.
EXIT_CONFIGURATION = 2
EXIT_NOT_STARTED = 1

_log = get_logger(__name__)

Hook = Callable[[], Awaitable[None]]


class BrokerGate(Service):
    """Holds back producer, consumer and agents until the broker answers and the topics fit."""

    logger = logging.getLogger(__name__)

    def __init__(self, settings: Settings, state: BrokerState, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._state = state
        self.mismatch: BoostError | None = None

    async def on_start(self) -> None:
        """Wait for the broker, then create or check the topics."""
        said: set[str] = set()
        while not self.should_stop:
            problem = f"no answer from {', '.join(self._settings.brokers)}"
            if await reachable(self._settings.brokers):
                try:
                    created = await ensure_topics(self._settings)
                except TopicMismatch as error:
                    _log.error("topics do not fit", action="topics_check", error=error.message)
                    self.mismatch = error
                    raise SystemExit(EXIT_CONFIGURATION) from error
                except BrokerAway as error:
                    self._state.failed(error)
                    problem = error.message
                else:
                    if created:
                        _log.info("topics created", action="topics_create", count=len(created))
                    return
            else:
                self._state.failed(BrokerAway(problem))
            if problem not in said:
                said.add(problem)
                _log.warning(
                    "waiting for the broker",
                    action="broker_wait",
                    brokers=",".join(self._settings.brokers),
                    error=problem,
                )
            await self.sleep(_GATE_SECONDS)


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
            [app.producer_ready],
            self.kafka_consumer(),
            self.agents(),
            self.kafka_conductor(),
            self.tables(),
        )

    def producer_only(self) -> Iterable[ServiceT]:
        """Return the services of a worker that consumes nothing."""
        app = self.app
        assert isinstance(app, BoostApp)
        return self._chain(app.own_services, self.web_server(), [app.gate], self.kafka_producer(), [app.producer_ready])


class ProducerReady(Service):
    """Marks the moment from which messages can be sent, and watches the broker from then on."""

    logger = logging.getLogger(__name__)

    def __init__(self, app: faust.App, settings: Settings, state: BrokerState, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._app = app
        self._settings = settings
        self._topics = topic_specs(settings)
        self._state = state

    async def on_start(self) -> None:
        """Let publishers send."""
        self._state.ready = True
        self._state.taken()

    @Service.task
    async def _watch(self) -> None:
        await self._state.watch(self._ask)

    async def _ask(self) -> None:
        producer: Any = self._app.producer
        cluster = await producer._producer.client.fetch_all_metadata()
        if self._settings.boost_embedded_broker or {spec.name for spec in self._topics} <= cluster.topics():
            return
        # The broker came back without them, and nothing else would make them while this worker runs.
        if created := await ensure_topics(self._settings):
            _log.warning("topics made again", action="topics_create", count=len(created))

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
        web._runner = AppRunner(web.web_app, access_log=None, auto_decompress=False)

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
        """Close the listening socket; connections that are open go on."""
        runner: Any = self.web._runner  # type: ignore[attr-defined]
        runner._shutdown_timeout = HANDLERS_SECONDS
        for site in list(runner.sites):
            await site.stop()

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
