"""Settings: what each variable may be, what production asks for, and that all problems are told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from boost_streams import settings as settings_module
from boost_streams.errors import ConfigurationError
from boost_streams.settings import ROLES, Settings, current_settings, load_settings

PRODUCTION = {
    "NODE_ENV": "production",
    "DATABASE_URL": "postgresql://boost:s3cret@db.example:5432/boost",
    "KAFKA_BROKER": "kafka-1.example:9092,kafka-2.example:9092",
    "REDIS_URL": "redis://:s3cret@redis.example:6379/0",
}


def problems(**changes: str) -> dict[str, str]:
    """Load production settings with some variables changed, and return what is wrong by variable."""
    return problems_of({**PRODUCTION, **changes})


def problems_of(environ: dict[str, str]) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ)
    assert "s3cret" not in str(caught.value)
    found = {problem.field: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "a variable is named twice"
    for field, message in found.items():
        assert f"{field}: {message}" in str(caught.value)
    return found


def test_development_needs_nothing() -> None:
    loaded = load_settings({})
    assert loaded.node_env == "development"
    assert not loaded.production
    assert loaded.database_url == "postgresql://postgres:postgres@localhost:5432/boost"
    assert loaded.brokers == ("localhost:9092",)
    assert loaded.redis_url == "redis://localhost:6379/0"
    assert (loaded.host, loaded.port, loaded.boost_roles) == ("0.0.0.0", 6066, ROLES)
    assert (loaded.kafka_topic_partitions, loaded.replication_factor, loaded.kafka_topic_prefix) == (8, 1, "")
    sweep = (loaded.sweep_interval_seconds, loaded.sweep_stuck_after_seconds, loaded.sweep_batch_size)
    assert sweep == (60, 300, 100)
    limits = (loaded.max_event_bytes, loaded.max_batch_events, loaded.max_body_bytes)
    assert limits == (65_536, 2_500, 4 * 1024 * 1024)
    assert (loaded.api_key_cache_seconds, loaded.idempotency_days, loaded.retention_days) == (60, 7, 0)
    assert (loaded.log_level, loaded.logs_as_json) == ("info", False)


def test_production_with_all_it_needs() -> None:
    loaded = load_settings(PRODUCTION)
    assert loaded.production
    assert loaded.replication_factor == 3
    assert loaded.logs_as_json
    assert loaded.brokers == ("kafka-1.example:9092", "kafka-2.example:9092")


@pytest.mark.parametrize("name", ["NODE_ENV", "BOOST_ENV", "node_env"])
@pytest.mark.parametrize("value", ["production", " Production ", "PRODUCTION"])
def test_the_environment_has_two_names_and_any_case(name: str, value: str) -> None:
    rest = {key: text for key, text in PRODUCTION.items() if key != "NODE_ENV"}
    assert load_settings({**rest, name: value}).production


def test_node_env_goes_before_its_alias_unless_empty() -> None:
    assert load_settings({"NODE_ENV": "test", "BOOST_ENV": "production"}).node_env == "test"
    assert load_settings({**PRODUCTION, "NODE_ENV": "", "BOOST_ENV": "production"}).production


@pytest.mark.parametrize("name", ["DATABASE_URL", "KAFKA_BROKER", "REDIS_URL"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_production_must_be_told_its_servers(name: str, how: str) -> None:
    environ = dict(PRODUCTION)
    if how == "absent":
        del environ[name]
    else:
        environ[name] = ""
    found = problems_of(environ)
    assert list(found) == [name]
    assert found[name].startswith("must be set, such as ")


@pytest.mark.parametrize(
    "host", ["localhost", "db.localhost.", "127.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0"]
)
def test_production_refuses_this_machine(host: str) -> None:
    found = problems(
        DATABASE_URL=f"postgresql://boost:s3cret@{host}:5432/boost",
        KAFKA_BROKER=f"kafka-1.example:9092,{host}:9092",
        REDIS_URL=f"redis://:s3cret@{host}:6379/0",
    )
    assert set(found) == {"DATABASE_URL", "KAFKA_BROKER", "REDIS_URL"}
    assert all(message.startswith("names this machine; in production give ") for message in found.values())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///boost",
        "postgresql://boost:s3cret@/boost",
        "postgresql://db.example,localhost/boost",
        "postgresql://db.example,:5433/boost",
        "postgresql:///boost?host=/var/run/postgresql",
        "postgresql://%2Fvar%2Frun/boost",
        "postgresql://db.example/boost?hostaddr=127.0.0.1",
    ],
)
def test_production_refuses_this_machine_wherever_it_stands(url: str) -> None:
    assert problems(DATABASE_URL=url)["DATABASE_URL"].startswith("names this machine")
    assert load_settings({"DATABASE_URL": url}).database_url == url


def test_production_refuses_a_socket_for_redis() -> None:
    assert list(problems(REDIS_URL="unix:///var/run/redis.sock")) == ["REDIS_URL"]
    assert load_settings({"REDIS_URL": "unix:///var/run/redis.sock"}).redis_url is not None


def test_production_keeps_three_copies_or_says_why_not() -> None:
    assert "ALLOW_REPLICATION_1" in problems(KAFKA_REPLICATION_FACTOR="1")["KAFKA_REPLICATION_FACTOR"]
    allowed = load_settings({**PRODUCTION, "KAFKA_REPLICATION_FACTOR": "1", "ALLOW_REPLICATION_1": "true"})
    assert allowed.replication_factor == 1
    assert load_settings({**PRODUCTION, "KAFKA_REPLICATION_FACTOR": "2"}).replication_factor == 2


def test_all_problems_are_told_at_once() -> None:
    found = problems_of(
        {
            "NODE_ENV": "production",
            "DATABASE_URL": "mysql://boost:s3cret@db/boost",
            "KAFKA_BROKER": "kafka-1",
            "PORT": "http",
            "LOG_LEVEL": "loud",
            "BOOST_ROLES": "web,tables",
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_PASSWORD": "s3cret",
            "KAFKA_SSL_CAFILE": "/no/such/file.pem",
            "KAFKA_REPLICATION_FACTOR": "1",
            "SWEEP_BATCH_SIZE": "0",
        }
    )
    assert set(found) == {
        "DATABASE_URL",
        "KAFKA_BROKER",
        "REDIS_URL",
        "PORT",
        "LOG_LEVEL",
        "BOOST_ROLES",
        "KAFKA_SASL_MECHANISM",
        "KAFKA_SASL_USERNAME",
        "KAFKA_SSL_CAFILE",
        "KAFKA_REPLICATION_FACTOR",
        "SWEEP_BATCH_SIZE",
    }


def test_an_unreadable_variable_is_named_once() -> None:
    found = problems(KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SASL_MECHANISM="magic")
    assert set(found) == {"KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"}
    assert "SCRAM-SHA-512" in found["KAFKA_SASL_MECHANISM"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NODE_ENV", "prod"),
        ("NODE_ENV", " "),
        ("DATABASE_URL", "db.example"),
        ("DATABASE_URL", "postgresql://boost:s3cret@[::1/boost"),
        ("DATABASE_URL", " "),
        ("DATABASE_URL", "postgresql://boost:s3cret@db.example:port/boost"),
        ("DATABASE_URL", "postgresql://boost:s3cret@db-1.example:5432,db-2.example:0/boost"),
        ("DATABASE_URL", "postgresql://boost:s3cret@db.example/boost?sslmode=foo"),
        ("REDIS_URL", "http://redis.example"),
        ("REDIS_URL", "redis://redis.example:port/0"),
        ("REDIS_URL", "redis://redis.example:99999/0"),
        ("REDIS_URL", "redis://redis.example/0?socket_timeout=x"),
        ("REDIS_URL", "redis://:s3cret@ho℀st/0"),
        ("KAFKA_BROKER", "kafka-1"),
        ("KAFKA_BROKER", "::::"),
        ("KAFKA_BROKER", "kafka-1:"),
        ("KAFKA_BROKER", ":9092"),
        ("KAFKA_BROKER", "kafka-1:0"),
        ("KAFKA_BROKER", "kafka-1:65536"),
        ("KAFKA_BROKER", "kafka-1:²"),
        ("KAFKA_BROKER", "kafka-1:9092,kafka-2"),
        ("KAFKA_BROKER", "kafka://boost:s3cret@kafka-1:9092"),
        ("KAFKA_BROKER", " , "),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_TOPIC_PARTITIONS", "0"),
        ("KAFKA_TOPIC_PARTITIONS", "8.5"),
        ("KAFKA_REPLICATION_FACTOR", "0"),
        ("KAFKA_TOPIC_PREFIX", "a b"),
        ("KAFKA_TOPIC_PREFIX", "a\n"),
        ("ALLOW_REPLICATION_1", "perhaps"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "6066a"),
        ("ADVERTISED_URL", "worker-1:6066"),
        ("BOOST_ROLES", ","),
        ("BOOST_ROLES", "web,everything"),
        ("SWEEP_INTERVAL_SECONDS", "0"),
        ("SWEEP_INTERVAL_SECONDS", "nan"),
        ("SWEEP_STUCK_AFTER_SECONDS", "-1"),
        ("SWEEP_BATCH_SIZE", "0"),
        ("MAX_EVENT_BYTES", "64kb"),
        ("MAX_EVENT_BYTES", "1000000000"),
        ("MAX_BATCH_EVENTS", "0"),
        ("MAX_BODY_BYTES", "1"),
        ("API_KEY_CACHE_SECONDS", "-1"),
        ("API_KEY_CACHE_SECONDS", "inf"),
        ("IDEMPOTENCY_DAYS", "0"),
        ("RETENTION_DAYS", "-1"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "xml"),
        ("KAFKA_SSL_CAFILE", "/no/such/file.pem"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str) -> None:
    found = problems(**{name: value})
    assert list(found) == [name]
    assert found[name]
    assert "s3cret" not in found[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p@db-1.example,db-2.example:5433/boost?sslmode=verify-full&connect_timeout=3"),
        ("DATABASE_URL", "postgresql://u:p@[2001:db8::1]:5432/boost"),
        ("DATABASE_URL", "postgresql:///boost?host=/var/run/postgresql"),
        ("REDIS_URL", "rediss://:p@[2001:db8::1]/0?socket_timeout=1.5"),
        ("REDIS_URL", "unix:///var/run/redis.sock?db=1"),
    ],
)
def test_a_url_may_hold_all_that_its_driver_reads(name: str, value: str) -> None:
    load_settings({**PRODUCTION, name: value} | ({"NODE_ENV": "development"} if "/var/run" in value else {}))


def test_an_event_fits_into_a_body() -> None:
    assert list(problems(MAX_EVENT_BYTES="4096", MAX_BODY_BYTES="2048")) == ["MAX_EVENT_BYTES"]


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_needs_its_three_variables(protocol: str) -> None:
    names = {"KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"}
    assert set(problems(KAFKA_SECURITY_PROTOCOL=protocol)) == names
    given = {
        "KAFKA_SECURITY_PROTOCOL": protocol,
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA_SASL_USERNAME": "boost",
        "KAFKA_SASL_PASSWORD": "s3cret",
    }
    assert load_settings({**PRODUCTION, **given}).kafka_sasl_password == "s3cret"


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    pem = tmp_path / "client.pem"
    pem.write_text("a certificate")
    assert list(problems(KAFKA_SSL_CERTFILE=str(pem))) == ["KAFKA_SSL_KEYFILE"]
    assert list(problems(KAFKA_SSL_KEYFILE=str(pem))) == ["KAFKA_SSL_CERTFILE"]
    both = {"KAFKA_SSL_CERTFILE": str(pem), "KAFKA_SSL_KEYFILE": str(pem)}
    assert load_settings({**PRODUCTION, **both}).kafka_ssl_keyfile == str(pem)
    assert list(problems(KAFKA_SSL_CAFILE=str(tmp_path))) == ["KAFKA_SSL_CAFILE"]


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    empty = {name.upper(): "" for name in Settings.model_fields if name != "redis_url"}
    assert load_settings(empty) == load_settings({})


def test_an_empty_redis_url_does_without_redis_but_not_in_production() -> None:
    assert load_settings({"REDIS_URL": ""}).redis_url == ""
    assert list(problems(REDIS_URL="")) == ["REDIS_URL"]


def test_variables_of_others_are_left_alone() -> None:
    assert load_settings({**PRODUCTION, "PATH": "/usr/bin", "DATABASE": "x"}) == load_settings(PRODUCTION)


@pytest.mark.parametrize(
    ("value", "roles"),
    [("web", ("web",)), (" sweeper , web ,", ("sweeper", "web")), ("web,web", ("web",))],
)
def test_roles(value: str, roles: tuple[str, ...]) -> None:
    assert load_settings({"BOOST_ROLES": value}).boost_roles == roles


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:6066"),
        ({"HOST": "::", "PORT": "7000"}, "http://127.0.0.1:7000"),
        ({"HOST": "10.0.0.5"}, "http://10.0.0.5:6066"),
        ({"ADVERTISED_URL": "http://worker-1:6066"}, "http://worker-1:6066"),
    ],
)
def test_the_address_for_other_workers(environ: dict[str, str], url: str) -> None:
    assert load_settings(environ).canonical_url == url


@pytest.mark.parametrize(
    ("environ", "as_json"),
    [
        ({}, False),
        ({"LOG_FORMAT": "JSON"}, True),
        (PRODUCTION, True),
        ({**PRODUCTION, "LOG_FORMAT": "console"}, False),
    ],
)
def test_the_form_of_log_lines(environ: dict[str, str], as_json: bool) -> None:
    assert load_settings(environ).logs_as_json is as_json


def test_passwords_do_not_show_when_settings_are_printed() -> None:
    loaded = load_settings({**PRODUCTION, "KAFKA_SASL_PASSWORD": "s3cret"})
    assert "s3cret" not in repr(loaded)
    assert "s3cret" not in str(loaded)


def test_settings_cannot_be_changed() -> None:
    loaded: Any = load_settings({})
    with pytest.raises(ValidationError):
        loaded.port = 1


def test_the_settings_of_a_process_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    current_settings.cache_clear()
    monkeypatch.setattr(settings_module.os, "environ", {"PORT": "7001"})
    try:
        assert current_settings().port == 7001
        settings_module.os.environ["PORT"] = "7002"
        assert current_settings().port == 7001
    finally:
        current_settings.cache_clear()


@pytest.mark.parametrize(
    ("text", "modules"),
    [("", ()), ("shop.handlers.coupons", ("shop.handlers.coupons",)), (" a.b , c,a.b,", ("a.b", "c"))],
)
def test_handler_modules_are_a_list(text: str, modules: tuple[str, ...]) -> None:
    assert load_settings({"BOOST_HANDLER_MODULES": text}).boost_handler_modules == modules


@pytest.mark.parametrize("text", ["shop/handlers.py", "shop..coupons", "a b"])
def test_a_handler_module_is_a_name_that_can_be_imported(text: str) -> None:
    with pytest.raises(ConfigurationError, match="BOOST_HANDLER_MODULES"):
        load_settings({"BOOST_HANDLER_MODULES": text})
