"""Every setting, its default and its check, in one model read from the environment.

`load_settings()` reports all problems at once, naming each variable and what would be right; no value that
could hold a password is ever printed.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from boost_streams.errors import ConfigurationError, FieldProblem
from boost_streams.hosts import brokers_of, hosts_of_url, is_this_machine, url_detail_problem

Role = Literal["web", "agents", "sweeper"]
ROLES: tuple[Role, ...] = ("web", "agents", "sweeper")

_LOCAL_DATABASE = "postgresql://postgres:postgres@localhost:5432/boost"
_LOCAL_BROKER = "localhost:9092"
_LOCAL_REDIS = "redis://localhost:6379/0"
_BROKERS = "kafka-1:9092,kafka-2:9092"


class _UrlKind(NamedTuple):
    schemes: tuple[str, ...]
    example: str


_POSTGRES = _UrlKind(("postgresql://", "postgres://"), "postgresql://user@host:5432/name")
_REDIS = _UrlKind(("redis://", "rediss://", "unix://"), "redis://host:6379/0")


class Settings(BaseSettings):
    """The whole configuration of a worker or a command. Field names are the variables in lower case."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=False, hide_input_in_errors=True, frozen=True)

    node_env: Literal["development", "test", "production"] = Field(
        default="development", validation_alias=AliasChoices("NODE_ENV", "BOOST_ENV")
    )
    database_url: str = Field(default="", repr=False)
    kafka_broker: str = ""
    redis_url: str | None = Field(default=None, repr=False)

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = Field(default=None, repr=False)
    kafka_ssl_cafile: str | None = None
    kafka_ssl_certfile: str | None = None
    kafka_ssl_keyfile: str | None = None
    kafka_topic_partitions: int = Field(default=8, ge=1, le=1000)
    kafka_replication_factor: int | None = Field(default=None, ge=1, le=10)
    kafka_topic_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    allow_replication_1: bool = False

    host: str = "0.0.0.0"
    port: int = Field(default=6066, ge=1, le=65535)
    advertised_url: str | None = Field(default=None, pattern=r"^https?://")
    boost_roles: Annotated[tuple[Role, ...], NoDecode] = ROLES
    boost_data_dir: str = "/tmp/boost-streams"  # noqa: S108 - the live tables' offsets, not secret
    boost_embedded_broker: bool = False

    sweep_interval_seconds: float = Field(default=60, gt=0, le=3600)
    sweep_stuck_after_seconds: float = Field(default=300, gt=0, le=86400)
    sweep_batch_size: int = Field(default=100, ge=1, le=100_000)

    boost_handler_modules: Annotated[tuple[str, ...], NoDecode] = ()
    handler_stall_seconds: float = Field(default=30, ge=0, le=3600)
    handler_event_seconds: float = Field(default=3, ge=0.1, le=3600)
    handler_memory_mib: int = Field(default=1024, ge=16, le=1_048_576)
    handler_failing_share: float = Field(default=0.5, gt=0, le=1)
    handler_failing_least: int = Field(default=100, ge=1)

    max_event_bytes: int = Field(default=65_536, ge=256, le=1_048_576)
    max_batch_events: int = Field(default=2_500, ge=1, le=50_000)
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    max_waiting_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)

    api_key_cache_seconds: float = Field(default=60, ge=0, le=3600)
    idempotency_days: int = Field(default=7, ge=1, le=365)
    retention_days: int = Field(default=0, ge=0, le=36500)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read only what is passed in: `load_settings` hands over the environment itself."""
        return (init_settings,)

    @field_validator("node_env", "log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("boost_roles", mode="before")
    @classmethod
    def _split_roles(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        roles = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if not roles:
            raise ValueError("name at least one of web, agents, sweeper")
        return roles

    @field_validator("boost_handler_modules", mode="before")
    @classmethod
    def _split_modules(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        modules = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if wrong := [module for module in modules if not all(part.isidentifier() for part in module.split("."))]:
            raise ValueError(f"must be a list of modules such as shop.handlers.coupons; {wrong[0]!r} is none")
        return modules

    @model_validator(mode="before")
    @classmethod
    def _fill_development_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        environment = str(values.get("NODE_ENV") or values.get("BOOST_ENV") or "development").strip().lower()
        if environment != "production":
            defaults = {"database_url": _LOCAL_DATABASE, "kafka_broker": _LOCAL_BROKER}
            values = {**defaults, **values}
            values.setdefault("redis_url", _LOCAL_REDIS)
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*_address_problems(self), *_kafka_problems(self)]
        if problems:
            raise ConfigurationError(tuple(problems))
        return self

    @property
    def production(self) -> bool:
        """Whether this is a production installation."""
        return self.node_env == "production"

    @property
    def replication_factor(self) -> int:
        """Kafka's replication factor of our topics: 3 in production, 1 elsewhere, unless set."""
        if self.kafka_replication_factor is not None:
            return self.kafka_replication_factor
        return 3 if self.production else 1

    @property
    def brokers(self) -> tuple[str, ...]:
        """The brokers as `host:port`, without a scheme."""
        return tuple(brokers_of(self.kafka_broker))

    @property
    def logs_as_json(self) -> bool:
        """Whether log lines are JSON (production's default) or readable on a terminal."""
        return (self.log_format or ("json" if self.production else "console")) == "json"

    @property
    def canonical_url(self) -> str:
        """The address under which other workers reach this one."""
        host = self.host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname() if self.production else "127.0.0.1"
        return self.advertised_url or f"http://{host}:{self.port}"


def _address_problems(settings: Settings) -> list[FieldProblem]:
    found = {
        "DATABASE_URL": _url_problem(settings, settings.database_url, _POSTGRES, required=True),
        "REDIS_URL": _url_problem(settings, settings.redis_url or "", _REDIS, required=settings.production),
        "KAFKA_BROKER": _broker_problem(settings),
    }
    return [FieldProblem(name, message) for name, message in found.items() if message]


def _url_problem(settings: Settings, url: str, kind: _UrlKind, *, required: bool) -> str | None:
    if not url:
        return f"must be set, such as {kind.example}" if required else None
    if not url.startswith(kind.schemes):
        return f"must start with {' or '.join(kind.schemes)}, such as {kind.example}"
    try:
        hosts = hosts_of_url(url)
    except ValueError:
        return f"cannot be read as a URL; give one such as {kind.example}"
    if detail := url_detail_problem(url):
        return f"{detail}; give a URL such as {kind.example}"
    if settings.production and any(is_this_machine(host) for host in hosts):
        return f"names this machine; in production give a server, such as {kind.example}"
    return None


def _broker_problem(settings: Settings) -> str | None:
    brokers = brokers_of(settings.kafka_broker)
    if not brokers:
        return f"must be set, such as {_BROKERS}"
    if any("@" in broker for broker in brokers):
        return "must hold no user or password; set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
    for broker in brokers:
        host, _, port = broker.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            return f"must be a list of host:port, such as {_BROKERS}"
        if settings.production and is_this_machine(host):
            return f"names this machine; in production give brokers, such as {_BROKERS}"
    return None


def _kafka_problems(settings: Settings) -> list[FieldProblem]:
    problems = []
    if settings.kafka_security_protocol.startswith("SASL"):
        message = f"must be set with {settings.kafka_security_protocol}"
        names = ("KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
        problems += [FieldProblem(name, message) for name in names if not getattr(settings, name.lower())]
    if bool(settings.kafka_ssl_certfile) != bool(settings.kafka_ssl_keyfile):
        missing = "KAFKA_SSL_KEYFILE" if settings.kafka_ssl_certfile else "KAFKA_SSL_CERTFILE"
        problems.append(FieldProblem(missing, "certificate and key are set together or not at all"))
    for name in ("KAFKA_SSL_CAFILE", "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE"):
        path = getattr(settings, name.lower())
        if path and not os.path.isfile(path):
            problems.append(FieldProblem(name, "no such file; give the path of a PEM file"))
    if settings.production and settings.replication_factor == 1 and not settings.allow_replication_1:
        problems.append(
            FieldProblem(
                "KAFKA_REPLICATION_FACTOR",
                "1 loses events with the broker's disk; use 3, or set ALLOW_REPLICATION_1=true",
            )
        )
    if settings.max_event_bytes > settings.max_body_bytes:
        problems.append(FieldProblem("MAX_EVENT_BYTES", "must not exceed MAX_BODY_BYTES"))
    return problems


def _variables() -> dict[str, str]:
    names = {name: name.upper() for name in Settings.model_fields}
    names["node_env"] = "NODE_ENV"
    return names


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check the settings.

    Args:
        environ: The variables to read; the process's own environment by default.

    Raises:
        ConfigurationError: With every problem found, each naming its variable.
    """
    environ = os.environ if environ is None else environ
    upper = {name.upper(): value for name, value in environ.items()}
    values: dict[str, Any] = {}
    for field, variable in _variables().items():
        if field == "node_env":
            continue
        if variable in upper and (upper[variable] != "" or field == "redis_url"):
            values[field] = upper[variable]
    environment = upper.get("NODE_ENV") or upper.get("BOOST_ENV")
    if environment:
        values["NODE_ENV"] = environment
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = [
            FieldProblem(str(part["loc"][0]).upper() if part["loc"] else "environment", _message(part))
            for part in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError((*problems, *_problems_of_the_rest(values, error))) from None


def _problems_of_the_rest(values: Mapping[str, Any], error: ValidationError) -> tuple[FieldProblem, ...]:
    """Check what stands between fields as well, with the unreadable ones left at their defaults."""
    unreadable = {str(part["loc"][0]) for part in error.errors() if part["loc"]}
    readable = {name: value for name, value in values.items() if name not in unreadable}
    if len(readable) == len(values):
        return ()
    try:
        Settings(**readable)
    except ConfigurationError as found:
        named = {name.upper() for name in unreadable}
        return tuple(problem for problem in found.problems if problem.field not in named)
    except ValidationError:
        return ()
    return ()


def _message(part: Any) -> str:
    if part["type"] == "literal_error":
        return f"must be {part['ctx']['expected']}"
    return str(part["msg"]).removeprefix("Value error, ")


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """Return the settings of this process, read once."""
    return load_settings()
