"""Follows docs/howto/add-a-handler.md to the letter, in a copy of the packages it talks about."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "add-a-handler.md"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:Create|In) `([^`]+)`:")

#: What Boost comes with: the files in agents/handlers, and the two lines of its list (which may be in brackets).
BUILT_IN_FILES = {"__init__", "currencies", "default", "payment", "tracking", "user"}
BUILT_IN_LINES = {
    r"^from agents\.handlers import (\([^)]*\)|.*)$": "from agents.handlers import default, payment, tracking, user",
    r"^HANDLER_MODULES = \([^)]*\)$": "HANDLER_MODULES = (tracking, user, payment, default)",
}


@dataclass(frozen=True)
class Block:
    """A code block of the page, with the file that the text before it names last."""

    language: str
    code: str
    file: str | None


def blocks() -> list[Block]:
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        named = _FILE.findall(text, 0, fence.start())
        found.append(Block(fence[1], fence[2], named[-1] if named else None))
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy what the page works on: the packages, the contract test, and pytest's configuration."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in ("agents", "boost_streams"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=unwanted)
    (tmp_path / "tests" / "contract").mkdir(parents=True)
    for file in ("tests/contract/test_handlers.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    without_handlers_of_your_own(tmp_path / "agents" / "handlers")
    return tmp_path


def without_handlers_of_your_own(folder: Path) -> None:
    """Leave only what Boost comes with, so that a handler added since does not stand in the page's way."""
    for file in folder.glob("*.py"):
        if file.stem not in BUILT_IN_FILES:
            file.unlink()
    listing = folder / "__init__.py"
    text = listing.read_text(encoding="utf-8")
    for pattern, built_in in BUILT_IN_LINES.items():
        text, found = re.subn(pattern, built_in, text, flags=re.MULTILINE)
        assert found == 1, pattern
    listing.write_text(text, encoding="utf-8")


def apply_diff(file: Path, diff: str) -> None:
    """Replace the lines that a diff takes out, which must stand in the file once, by its new ones."""
    lines = diff.splitlines()
    assert all(line[:1] in "+-" for line in lines), diff
    old = "".join(f"{line[1:]}\n" for line in lines if line.startswith("-"))
    new = "".join(f"{line[1:]}\n" for line in lines if line.startswith("+"))
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} does not hold what the page changes:\n{old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/python"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
    environ["PYTHONPATH"] = str(folder)
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def follow(page: list[Block], folder: Path) -> list[str]:
    """Do what each block says, in order; return the commands that were run."""
    commands, output = [], ""
    for block in page:
        if block.language == "python":
            assert block.file
            target = folder / block.file
            assert not target.exists()
            target.write_text(block.code, encoding="utf-8")
        elif block.language == "diff":
            assert block.file
            apply_diff(folder / block.file, block.code)
        elif block.language == "markdown":
            assert block.file
            assert (ROOT / block.file).exists()
        elif block.language == "sh":
            output = run(block.code, folder)
            commands.append(block.code)
        else:
            assert block.language == "text"
            assert output == block.code
    return commands


def test_the_page_has_one_new_file_and_one_list_to_change() -> None:
    page = blocks()
    assert [block.file for block in page if block.language == "python"] == ["agents/handlers/video.py"]
    assert {block.file for block in page if block.language == "diff"} == {"agents/handlers/__init__.py"}


def test_the_page_documents_the_metric_that_its_file_counts() -> None:
    [row] = [block for block in blocks() if block.language == "markdown"]
    assert row.file == "docs/reference/data-model.md"
    [code] = [block.code for block in blocks() if block.language == "python"]
    assert re.findall(r"^\| `(\w+)` \|", row.code, re.MULTILINE) == re.findall(r'Count\("(\w+)"', code)


def test_a_handler_of_your_own_does_not_stand_in_the_way(copy: Path) -> None:
    page = [block for block in blocks() if block.language in ("python", "diff")]
    follow(page, copy)
    listing = copy / "agents" / "handlers" / "__init__.py"
    text = listing.read_text(encoding="utf-8")
    listing.write_text(re.sub(r"import (default, .*)", r"import (\n    \1,\n)", text), encoding="utf-8")
    without_handlers_of_your_own(listing.parent)
    follow(page, copy)


ASK = "from agents.handlers import load_registry; print(load_registry().handler_of('video_play').name)"
HANDLE = """
import datetime, uuid
from agents.handlers import load_registry
from boost_streams.events import Event
now = datetime.datetime.now(datetime.UTC)
event = Event(uuid.uuid4(), uuid.uuid4(), 'video_play', now, now, {'video': 'intro', 'seconds': 7})
print(load_registry().handler_of('video_play').handle(event).effects[0])
"""


def test_following_the_page_adds_the_handler(copy: Path) -> None:
    assert run(f".venv/bin/python -c {shlex.quote(ASK)}", copy) == "default\n"

    commands = follow(blocks(), copy)

    assert any("tests/contract/test_handlers.py" in command for command in commands)
    assert "metric='video_plays', dimensions=('intro',)" in run(f".venv/bin/python -c {shlex.quote(HANDLE)}", copy)


def test_the_contract_test_that_the_page_runs_does_see_the_new_file(copy: Path) -> None:
    page = [block for block in blocks() if block.language in ("python", "diff")]
    follow(page, copy)
    file = copy / "agents" / "handlers" / "video.py"
    file.write_text(file.read_text(encoding="utf-8").replace('expect="video"', 'expect="film"'), encoding="utf-8")
    with pytest.raises(AssertionError, match="video-video_play-film"):
        run(".venv/bin/python -m pytest tests/contract/test_handlers.py -q -k 'example and video'", copy)


def test_every_name_in_backticks_that_is_a_file_exists() -> None:
    named = set(re.findall(r"`([\w./-]+\.(?:py|md))`", PAGE.read_text(encoding="utf-8")))
    planned = {"agents/handlers/video.py"}
    assert [file for file in sorted(named - planned) if not (ROOT / file).exists()] == []
