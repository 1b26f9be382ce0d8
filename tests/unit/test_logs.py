"""No key and no payload reaches a log, in any format; every line has an action."""

from __future__ import annotations

import json
import logging
import logging.config

import pytest

from boost_streams.logs import NotSaidJustNow, configure_structlog, get_logger, logging_config
from boost_streams.settings import load_settings

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> str:
    configure_structlog()
    logging.config.dictConfig(logging_config(load_settings({"LOG_FORMAT": request.param})))
    log = get_logger("boost_streams.test")
    log.info("a line", action="test", event_id="e-1", payload={"card": "4111"}, api_key="bst_live_secret")
    secret_local = "4111-in-a-local"
    try:
        raise ValueError(f"bad payload {secret_local}")
    except ValueError:
        log.exception("it failed", action="test_failed")
        logging.getLogger("somewhere").exception("it failed elsewhere")
    return capsys.readouterr().err


def test_no_payload_no_key(written: str) -> None:
    assert "4111" not in written
    assert "bst_live_secret" not in written
    assert "ValueError" in written
    assert "test_logs.py" in written
    assert "e-1" in written


def test_every_json_line_has_an_action(written: str) -> None:
    lines = [line for line in written.splitlines() if line.startswith("{")]
    for line in lines:
        assert json.loads(line)["action"] in ("test", "test_failed", "faust")


def test_a_kafka_client_does_not_repeat_itself() -> None:
    now = 100.0
    quiet = NotSaidJustNow(10, clock=lambda: now)

    def said(name: str, message: str, *args: object) -> str | None:
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, None)
        return record.getMessage() if quiet.filter(record) else None

    assert said("aiokafka.client", "no node %s", 1) == "no node 1"
    assert said("aiokafka.client", "no node %s", 1) is None
    assert said("aiokafka.client", "no node %s", 2) is None
    assert said("aiokafka.client", "something else") == "something else"
    assert said("aiokafka.consumer", "no node %s", 1) == "no node 1"
    assert said("ours", "no node %s", 1) == said("ours", "no node %s", 1) == "no node 1"
    refused = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused"
    rdkafka = ("librdkafka", "%s [%s] %s", "FAIL", "boost-streams#producer-1")
    assert said(*rdkafka, f"{refused} (after 0ms in state CONNECT)")
    assert said(*rdkafka, f"{refused} (after 1ms in state CONNECT)") is None
    assert said(*rdkafka, f"{refused.replace('9092', '9093')} (after 1ms in state CONNECT)")
    now = 110.0
    assert said("aiokafka.client", "no node %s", 3) == "no node 3 (and 2 times more meanwhile)"
    assert said("aiokafka.client", "no node %s", 3) is None
    again = said(*rdkafka, f"{refused} (after 2ms in state CONNECT)")
    assert again is not None
    assert again.endswith("(after 2ms in state CONNECT) (and 1 times more meanwhile)")


def test_what_was_said_long_ago_is_forgotten() -> None:
    now = 100.0
    quiet = NotSaidJustNow(10, clock=lambda: now)
    for number in range(1000):
        record = logging.LogRecord("librdkafka", logging.ERROR, __file__, 1, f"host {number} is away", (), None)
        assert quiet.filter(record)
        assert not quiet.filter(record)
        now += 0.1
    assert len(quiet._said) < 400
