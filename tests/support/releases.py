"""Other releases of Boost beside this one: the one before, from git, and one that is to come, made from this one."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.support.statements import statements

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("boost_streams", "agents", "tables", "web", "db")
#: The commit of the release before. With a release it becomes that release's, and this module is run there once.
PREVIOUS = "8e5720e6ea20bb0a4ee12f42675417a292ef2d21"
#: Its statements, for where git has not got the commit (a shallow checkout).
PREVIOUS_STATEMENTS = ROOT / "tests" / "integration" / "previous_statements.json"


def previous_release(folder: Path) -> Path | None:
    """Write the code of the release before into a folder; None where git has not got it."""
    archive = subprocess.run(["git", "archive", PREVIOUS, *PACKAGES], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def next_release(folder: Path) -> Path:
    """Write this code into a folder, with a newer version of every record."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    records = folder / "boost_streams" / "records.py"
    text, changed = re.subn(
        r"^SCHEMA_VERSION = (\d+)$", lambda m: f"SCHEMA_VERSION = {int(m[1]) + 1}", records.read_text(), flags=re.M
    )
    assert changed == 1
    records.write_text(text)
    return folder


def main() -> None:
    """Write down the statements of this checkout, as those of a release."""
    found = {
        one.id: {"sql": one.sql, "roles": sorted(one.roles)}
        for one in statements()
        if one.roles and not one.is_template
    }
    PREVIOUS_STATEMENTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
