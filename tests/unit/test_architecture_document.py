"""docs/architecture.md names files and functions: each exists, and every module of the packages is mentioned."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ("boost_streams", "web", "agents", "tables", "db")

_IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*(?:\.\w+)?|[\w.-]+\.(?:py|md|toml)")
_NAMED = re.compile(r"(?P<file>[\w./-]+\.py):(?P<name>[\w.]+)")


def in_backticks() -> set[str]:
    return set(_IN_BACKTICKS.findall(DOCUMENT.read_text(encoding="utf-8")))


def named_paths() -> set[str]:
    """List the files and folders that the document names, `file.py:name` included."""
    texts = {text.partition(":")[0] for text in in_backticks()}
    return {text for text in texts if _PATH.fullmatch(text)}


def named_parts() -> list[tuple[str, str]]:
    matches = (_NAMED.fullmatch(text) for text in in_backticks())
    return sorted((match["file"], match["name"]) for match in matches if match)


@cache
def names_of(file: str) -> frozenset[str]:
    """List the names that a module defines: functions, classes, `Class.member`, assigned names."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(_names_in(tree.body, prefix=""))


def _names_in(body: list[ast.stmt], prefix: str) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(prefix + node.name)
            found |= _names_in(node.body, prefix=f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign):
            found |= {prefix + target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(prefix + node.target.id)
    return found


def modules() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )


@pytest.mark.parametrize("path", sorted(named_paths()))
def test_named_file_or_folder_exists(path: str) -> None:
    assert (ROOT / path).exists() or (DOCUMENT.parent / path).exists(), (
        f"{DOCUMENT.name} names {path}, which is not there"
    )


@pytest.mark.parametrize(("file", "name"), named_parts())
def test_named_function_or_class_exists(file: str, name: str) -> None:
    assert (ROOT / file).exists(), f"{DOCUMENT.name} names {file}, which is not there"
    assert name in names_of(file), f"{DOCUMENT.name} names {file}:{name}, but {file} defines no {name}"


def test_every_module_is_mentioned_or_its_folder_is() -> None:
    named = named_paths()
    folders = tuple(path for path in named if path.endswith("/") and path.count("/") > 1)
    missing = [module for module in modules() if module not in named and not module.startswith(folders)]
    assert missing == [], f"mention these in {DOCUMENT.name}, or their folder"


def test_the_checks_see_something() -> None:
    assert len(named_paths()) > 30
    assert len(named_parts()) > 50
    assert "Settlement.settle" in names_of("agents/settlement.py")
    assert "Settlement.settled" not in names_of("agents/settlement.py")
    assert "MAX_ATTEMPTS" in names_of("agents/registry.py")
