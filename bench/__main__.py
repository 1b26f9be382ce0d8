"""`python -m bench`: measures every figure with its ceiling beside it."""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import structlog

from bench import machine, plan
from bench.children import end_children
from bench.database import ask
from bench.errors import BenchError
from bench.load.wrk import wrk_program
from bench.plots import draw_plots
from bench.report import DOCUMENT, write_report
from bench.results import RESULTS_FILE, SCRATCH_FILE, Measured, Row, read_results, write_results
from bench.run import Bench, Effort
from bench.scaling import DOCUMENT as SCALING
from bench.scaling import write_scaling
from bench.site import Site, postgres_settings, running_site
from bench.table import as_text
from bench.warming import warm_up
from boost_streams.embedded.process import EmbeddedServerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench as the command line asks; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(plan.all_row_ids()))
        return 0
    if options.report:
        _publish()
        return 0
    wanted = _filter(options.only)
    if not any(wanted(row_id) for row_id in plan.all_row_ids()):
        print(f"no row begins with {', '.join(options.only)}; --list names them", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        rows = _run(options, wanted)
    except (BenchError, EmbeddedServerError) as error:
        print(f"bench: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        end_children()
    print(as_text(rows))
    if target_of(options) == RESULTS_FILE:
        _publish()
    return 0


def _interrupt(*_: object) -> None:
    """End as on Ctrl-C: servers are stopped and folders removed."""
    raise KeyboardInterrupt


def target_of(options: argparse.Namespace) -> Path:
    """Return where the rounds go: a quick run and single rows leave the results of the whole run alone."""
    scratch = options.mode == "quick" or (options.only and not options.keep)
    return SCRATCH_FILE if scratch else RESULTS_FILE


def _publish() -> None:
    """Draw the plots, where matplotlib is installed, and write the document."""
    results = read_results()
    try:
        draw_plots(results)
    except ImportError:
        print("bench: no plots, matplotlib is not installed: pip install 'boost-streams[bench]'", file=sys.stderr)
    write_report(results)
    print(f"bench: wrote {DOCUMENT}", file=sys.stderr)
    if write_scaling(results):
        print(f"bench: wrote {SCALING}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=sorted(plan.MODES), default="full", help="what runs (default: full)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="rows whose ids begin so; repeat it")
    parser.add_argument("--rounds", type=int, help="rounds of each row")
    parser.add_argument("--seconds", type=float, help="seconds of one measurement")
    parser.add_argument("--events", type=int, help="events, in rows that count them")
    parser.add_argument("--connections", type=int, action="append", help="connections, in rows that have several")
    parser.add_argument("--keep", action="store_true", help="with --only: keep the rows in bench/results.json")
    parser.add_argument("--report", action="store_true", help="write docs/performance.md from bench/results.json again")
    parser.add_argument("--list", action="store_true", help="name the rows and leave")
    return parser


def _filter(only: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a row is wanted: `single` wants all of `single.…`, `single.c64.ids` one."""
    if not only:
        return lambda _: True
    return lambda row_id: any(row_id == name or row_id.startswith(f"{name}.") for name in only)


def _effort(options: argparse.Namespace, group: str) -> Effort:
    given = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "events": options.events,
        "connections": tuple(options.connections) if options.connections else None,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    effort = plan.effort_alone if options.only else plan.effort_for
    return dataclasses.replace(effort(group, options.mode), **changed)


def _run(options: argparse.Namespace, wanted: Callable[[str], bool]) -> list[Row]:
    wrk_program()
    groups = [group for group in plan.GROUPS if any(wanted(row_id) for row_id in group.ROWS)]
    if not options.only:
        groups = plan.groups_of(options.mode)
    target = target_of(options)
    done: list[Row] = []
    bench = Bench(site=None, effort=Effort(1, 1), wanted=wanted)  # type: ignore[arg-type]
    with running_site(bench.say) as site:
        bench.site = site
        run = _describe(site)
        if options.mode != "quick":
            warm_up(bench)
        for group in groups:
            bench.effort = _effort(options, group.NAME)
            bench.say(f"{group.NAME}: {bench.effort.rounds} rounds, {bench.effort.seconds:g} s each")
            rows = _measure(bench, group, options.mode)
            done += rows
            results = read_results(target).with_rows(rows)
            results.runs[options.mode] = run
            write_results(results, target)
    bench.say(f"rounds are in {target}")
    return done


def _measure(bench: Bench, group: ModuleType, mode: str) -> list[Row]:
    rows = list(group.measure(bench))
    at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    for row in rows:
        row.measured = Measured(at, mode, machine.git_commit(), bench.effort.seconds)
        bench.done[row.id] = row
    return rows


def _describe(site: Site) -> dict[str, object]:
    with ask(site.postgres.url()) as question:
        version = str(question.one("SHOW server_version"))
    return machine.describe(version, postgres_settings(site.memory_bytes))


if __name__ == "__main__":
    sys.exit(main())
