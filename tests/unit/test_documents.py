"""Every relative link in every Markdown file of the repository leads to a file, and to a heading of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?(?P<target>[^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(?P<target>\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*\s*$", re.MULTILINE)
_ANCHOR = re.compile(r"<a\s+(?:name|id)=\"(?P<name>[^\"]+)\"")
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)
_LINKED_HEADING = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def documents() -> list[str]:
    """List the Markdown files that git knows, or would take in; where there is no git, all outside hidden folders."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listing.stdout.splitlines() if listing.returncode == 0 else _outside_hidden_folders()
    return sorted({name for name in names if (ROOT / name).exists()})


def _outside_hidden_folders() -> list[str]:
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def decisions() -> list[Path]:
    """List the decisions' documents."""
    return sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


@cache
def prose_of(path: Path) -> str:
    """Return a document without its code blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def links_of(path: Path) -> list[str]:
    """List the targets of a document's links within the repository."""
    prose = _CODE.sub("", prose_of(path))
    targets = [match["target"] for pattern in (_LINK, _REFERENCE) for match in pattern.finditer(prose)]
    return [target for target in targets if not _ELSEWHERE.match(target)]


def slug(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading: lower case, no punctuation, hyphens for spaces."""
    text = _LINKED_HEADING.sub(r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors_of(path: Path) -> frozenset[str]:
    """List the anchors of a document; a heading that occurs again gets a number."""
    found: set[str] = set()
    for match in _HEADING.finditer(prose_of(path)):
        name = anchor = slug(match["text"])
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{name}-{number}"
        found.add(anchor)
    return frozenset(found | {match["name"] for match in _ANCHOR.finditer(prose_of(path))})


def problem_with(document: Path, target: str) -> str | None:
    """Say what is wrong with a link, or return None."""
    file, _, anchor = unquote(target).partition("#")
    if file.startswith("/"):
        return "is absolute; write it relative to the document"
    path = (document.parent / file).resolve() if file else document
    if not path.is_relative_to(ROOT):
        return "leads out of the repository"
    if not path.exists():
        return "leads to no file"
    if anchor and path.suffix == ".md" and anchor not in anchors_of(path):
        return f"leads to no heading; there are {', '.join(sorted(anchors_of(path)))}"
    return None


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    problems = {target: problem for target in links_of(document) if (problem := problem_with(document, target))}
    assert problems == {}


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Stuck, or merely queued?", "stuck-or-merely-queued"),
        ("`boost dev` & its servers", "boost-dev--its-servers"),
        ("0001 — The batch", "0001--the-batch"),
        ("See [the page](x.md)", "see-the-page"),
    ],
)
def test_slug_is_what_github_makes_of_a_heading(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_documents_are_found_with_and_without_git() -> None:
    assert {"README.md", "docs/README.md", "docs/architecture.md"} <= set(documents())
    assert set(documents()) <= set(_outside_hidden_folders()) | {name for name in documents() if name.startswith(".")}


def test_a_broken_link_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# One\n## Two\n## Two\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#two-1) [c](other.md#three) [d](gone.md) [e](../out.md) "
        "[f](https://example.com/x.md)\n`[code](gone.md)`\n```\n[block](gone.md)\n```\n[g]: missing.md\n"
    )
    broken = {target for target in links_of(page) if problem_with(page, target)}
    assert broken == {"other.md#three", "gone.md", "../out.md", "missing.md"}
    assert len(links_of(page)) == 6


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    pages = "".join((ROOT / name).read_text(encoding="utf-8") for name in documents())
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", pages, re.MULTILINE))
    assert {"run", "test", "dev-tools"} <= named
    assert named - targets == set()


ADD_A_FEATURE = ROOT / "docs" / "howto" / "add-a-feature.md"
NEW_FILES = "db/daily_totals.py web/daily_totals.py tests/integration/test_daily_totals.py"
_BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:Create|In) `([^`]+)`:")


def apply_diff(file: Path, diff: str) -> None:
    """Replace the lines that a diff takes out, which must stand in the file once, by its new ones."""
    lines = diff.splitlines()
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] == sign) for sign in "-+")
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} does not hold what the page changes:\n{old}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def follow(page: Path, folder: Path) -> list[str]:
    """Write and change the files that a page names, in a copy of the repository; return its commands."""
    text, commands = page.read_text(encoding="utf-8"), []
    for block in _BLOCK.finditer(text):
        if block["language"] == "sh":
            commands.append(block["code"])
            continue
        target = folder / _FILE.findall(text, 0, block.start())[-1]
        if block["language"] == "diff":
            apply_diff(target, block["code"])
        else:
            assert not target.exists()
            target.write_text(block["code"], encoding="utf-8")
    return commands


@pytest.mark.slow
def test_following_add_a_feature_makes_a_feature_that_works(tmp_path: Path, postgres_url: str) -> None:
    for name in ("boost_streams", "web", "agents", "tables", "db", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
    environ |= {"PYTHONPATH": str(tmp_path), "TEST_DATABASE_URL": postgres_url}

    commands = follow(ADD_A_FEATURE, tmp_path)

    commands.append(f".venv/bin/python -m ruff check {NEW_FILES} web/routes.py")
    commands.append(f".venv/bin/python -m ruff format --check {NEW_FILES} web/routes.py")
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == ".venv/bin/python"
        finished = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
    sys_path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from web.routes import ROUTES; "
    listing = [sys.executable, "-c", sys_path + "print('/daily-totals' in ROUTES)"]
    assert subprocess.run(listing, cwd=tmp_path, env=environ, capture_output=True, text=True).stdout == "True\n"


def test_every_decision_is_listed_by_its_heading() -> None:
    listed = prose_of(ROOT / "docs" / "README.md")
    headings = {path.name: path.read_text().splitlines()[0][2:].replace(" — ", " ", 1) for path in decisions()}
    assert headings
    assert [name for name, heading in headings.items() if f"- [{heading}](adr/{name})" not in listed] == []
