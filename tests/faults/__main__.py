"""Run fault campaigns: python -m tests.faults --only kill,zombie --scale 0.1 --seed 7.

Without `--only` all of them run. `--keep` puts what they came to into the results file, in the place of the last run
of the same campaign, and writes docs/reliability.md; with `--add` beside it, so that several runs add up.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys

import structlog

from tests.faults import results
from tests.faults.campaigns import BY_NAME, CAMPAIGNS, schedule
from tests.faults.document import write_document
from tests.faults.rig import CannotBeHad
from tests.faults.run import run
from tests.support.workers import LOGS


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="names of campaigns, with commas between")
    parser.add_argument("--scale", type=float, default=1.0, help="1 for as often as the table says")
    parser.add_argument("--seed", type=int, default=0, help="0 draws one")
    parser.add_argument("--keep", action="store_true", help="put the results into the file and the document")
    parser.add_argument("--add", action="store_true", help="beside what the file has of the campaign")
    parser.add_argument("--list", action="store_true", help="print the campaigns and their schedules")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.only.split(",") if name and name not in BY_NAME]
    if unknown:
        parser.error(f"no such campaign: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    seed = options.seed or random.randrange(1, 1_000_000)
    chosen = [BY_NAME[name] for name in options.only.split(",") if name] or list(CAMPAIGNS)
    for library in ("asyncpg", "aiokafka"):  # they tell of each connection that fails
        logging.getLogger(library).setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"seed {seed}, scale {options.scale:g}", flush=True)
    failed = []
    for campaign in chosen:
        print(f"== {campaign.name}", flush=True)
        if options.list:
            for plan in schedule(campaign, seed, options.scale):
                print(f"  after {plan.after:4.1f} s for {plan.lasts:4.1f} s: {plan.title}")
            continue
        try:
            outcome = asyncio.run(run(campaign, seed, options.scale, lambda text: print(text, flush=True)))
        except CannotBeHad as error:
            print(f"skipped: {error}", flush=True)
            continue
        remove_logs()
        print(
            f"{sum(outcome.faults.values())} faults, {outcome.events} events, {outcome.accepted} answered 202, "
            f"{outcome.lost} lost, {outcome.duplicate_effects} duplicate effects; longest wait for a 202 "
            f"{outcome.longest_202} s, until settled {outcome.longest_settled} s; all settled {outcome.recovered} s "
            f"after the last fault; {outcome.seconds:.0f} s; {outcome.figures}",
            flush=True,
        )
        for problem in outcome.problems:
            print(f"PROBLEM {campaign.name}: {problem}", flush=True)
        if outcome.problems:
            failed.append(campaign.name)
        elif options.keep:
            results.put(outcome, add=options.add)
            write_document()
    print(f"not as it must be: {', '.join(failed)} (seed {seed})" if failed else "all as it must be", flush=True)
    return 1 if failed else 0


def remove_logs() -> None:
    """Remove what workers logged; the logs of a run that was not as it must be are kept elsewhere."""
    while LOGS:
        LOGS.pop().unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
