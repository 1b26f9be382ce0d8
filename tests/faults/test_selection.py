"""A selection of the fault suite, a few faults of most kinds on one rig: nothing is lost, nothing counts twice.

`make test-faults` runs all of it, each fault as often as docs/reliability.md says.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.faults.campaigns import SELECTION
from tests.faults.run import run

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SEED = int(os.environ.get("BOOST_SEED", "0")) or random.randrange(1, 1_000_000)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures whether or not pytest captures what tests print."""

    def printed(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}", end="")

    return printed


async def test_a_few_faults_of_most_kinds(say: Callable[[str], None]) -> None:
    say(f"seed {SEED} (repeat it with BOOST_SEED={SEED})")

    outcome = await run(SELECTION, SEED, 1.0, say)

    say(f"{outcome}\n")
    assert outcome.problems == [], f"seed {SEED}"
    assert outcome.accepted > 1000
    assert outcome.faults == {kind.title: kind.times for kind in SELECTION.kinds}
