"""Every relative link in every Markdown file of the repository leads to a file, and to a heading of it."""

from __future__ import annotations

import re
import subprocess
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
    """List the Markdown files that git knows, or would take in."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({name for name in listing.stdout.splitlines() if (ROOT / name).exists()})


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
