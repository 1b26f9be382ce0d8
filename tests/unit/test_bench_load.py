"""What the load generators print is read, and what is no measurement is refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from bench.bodies import event_bodies, write_bodies
from bench.errors import BenchError
from bench.load import oha, wrk
from bench.load.paced import Sustained

_WRK = """Running 3s test @ http://127.0.0.1:20000
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     7.35ms    2.10ms  48.97ms   91.40%
  26043 requests in 3.10s, 6.11MB read
Requests/sec:   8401.93
{"requests":26043,"seconds":3.100000,"refused":0,"broken":0,"p50_ms":7.1,"p99_ms":12.5,"max_ms":48.97}
"""


def _oha(**changes: object) -> str:
    document: dict[str, object] = {
        "summary": {"successRate": 1.0, "total": 2.0, "slowest": 0.0127, "requestsPerSec": 299.7},
        "latencyPercentiles": {"p10": 0.0001, "p50": 0.0002, "p90": 0.0003, "p99": 0.0028, "p99.9": 0.0127},
        "statusCodeDistribution": {"202": 600},
        "errorDistribution": {},
    }
    return json.dumps(document | changes)


def test_the_line_of_our_script_is_read_from_the_output_of_wrk() -> None:
    answer = wrk.read_answer(_WRK)

    assert (answer.requests, answer.refused, answer.broken, answer.p99_ms) == (26043, 0, 0, 12.5)
    assert answer.rate == pytest.approx(8401, abs=1)


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused", '{"requests":'])
def test_wrk_without_a_result_is_said(output: str) -> None:
    with pytest.raises(BenchError, match=r"no result|cannot be read"):
        wrk.read_answer(output)


def test_a_missing_generator_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CARGO_HOME", "/nowhere")

    with pytest.raises(BenchError, match="make bench-tools"):
        wrk.wrk_program()
    with pytest.raises(BenchError, match="make bench-tools"):
        oha.oha_program()


def test_latencies_of_oha_are_milliseconds() -> None:
    answer = oha.read_answer(_oha())

    assert answer.requests == 600
    assert (answer.p50_ms, answer.p99_ms, answer.max_ms) == pytest.approx((0.2, 2.8, 12.7))


def test_requests_cut_off_at_the_end_are_no_failures() -> None:
    assert oha.read_answer(_oha(errorDistribution={"aborted due to deadline": 12})).requests == 600


@pytest.mark.parametrize(
    "changes",
    [
        {"statusCodeDistribution": {"202": 599, "503": 1}},
        {"errorDistribution": {"connection refused": 3}},
        {"statusCodeDistribution": {}},
        {"latencyPercentiles": {"p50": None, "p90": None, "p99": None}},
    ],
)
def test_a_run_in_which_requests_failed_is_no_measurement(changes: dict[str, object]) -> None:
    with pytest.raises(BenchError):
        oha.read_answer(_oha(**changes))


def test_what_oha_cannot_have_printed_is_refused() -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        oha.read_answer("error: unexpected argument")


def _run(*counts: int) -> Sustained:
    return Sustained(1000, 10_000, 10.0, 1000, [(float(second), count) for second, count in enumerate(counts)])


def test_a_backlog_that_goes_up_and_down_holds() -> None:
    assert _run(0, 300, 500, 400, 520, 430, 510, 420, 505, 450).holds


def test_a_backlog_that_grows_does_not_hold() -> None:
    assert not _run(*range(0, 2000, 200)).holds


def test_filling_up_at_the_start_is_no_growth() -> None:
    assert _run(0, 400, 800, 800, 800, 800, 800, 800, 800, 800).holds


def test_a_pace_that_was_too_fast_is_followed_by_what_was_settled_meanwhile() -> None:
    behind = _run(*range(0, 2000, 200))  # of 1,000 events a second 200 were left over each second

    assert behind.slower == pytest.approx(0.97 * 800)


def test_every_line_has_a_message_id_of_its_own() -> None:
    bodies = event_bodies(3)
    lines = [*oha.fresh_lines(bodies, 7), *oha.fresh_lines(bodies, 7)]

    sent = [json.loads(line) for line in lines]
    assert len({event.pop("messageId") for event in sent}) == 14
    assert sent == [json.loads(bodies[number % 7 % 3]) for number in range(14)]
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)


def test_lines_go_to_oha_through_a_pipe_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands for oha reads the lines, and says in its answer how many came."""
    program = tmp_path / "oha"
    answer = _oha().replace("600", "$lines")
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -Z ]; do shift; done\n'
        f'echo "$2" > {tmp_path}/pipe\n'
        'lines=$(sort "$2" | uniq | wc -l)\n'
        f"cat <<END\n{answer}\nEND\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requests = wrk.Requests(write_bodies(tmp_path / "events.jsonl", 20), ["key"], message_ids=True)

    assert oha.OhaRun("http://x", requests, rate=100, connections=1, seconds=2).result().requests == 200 * 50
    assert not Path((tmp_path / "pipe").read_text().strip()).parent.exists()


@pytest.mark.parametrize("message_ids", [False, True])
def test_a_run_that_is_ready_sends_nothing_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message_ids: bool
) -> None:
    """What stands for oha begins, as oha does, when it has read to the end of the lines."""
    program, begun = tmp_path / "oha", tmp_path / "begun"
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -Z ]; do shift; done\n'
        f'cat "$2" > /dev/null; touch {begun}\n'
        f"cat <<END\n{_oha()}\nEND\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requests = wrk.Requests(write_bodies(tmp_path / "events.jsonl", 20), ["key"], message_ids=message_ids)

    run = oha.OhaRun("http://x", requests, rate=100, connections=1, seconds=2, begin=False)
    if run._fresh:
        run._fresh._writer.join(0.2)
        assert run._fresh._writer.is_alive()
    assert not begun.exists()
    run.begin()
    assert run.result().requests == 600
    assert begun.exists()


def test_an_oha_that_ends_at_once_is_an_error_and_leaves_no_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "oha"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    requests = wrk.Requests(write_bodies(tmp_path / "events.jsonl", 20), ["key"], message_ids=True)

    with pytest.raises(BenchError):
        oha.OhaRun("http://x", requests, rate=100, connections=1, seconds=2).result()
    assert not list(tmp_path.glob("boost-bench-*/events.jsonl"))
