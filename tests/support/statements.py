"""Finds every SQL statement of the package `db`, and the role that runs it, by reading the source."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import db

PIPELINE, TENANT, OWNER = "boost_pipeline", "boost_tenant", "boost_owner"
#: Tables of which a tenant sees the rows of its own project.
TENANT_TABLES = (
    "api_keys",
    "dead_letters",
    "end_users",
    "events",
    "event_retries",
    "rollups",
    "rollup_deltas",
    "rollup_switches",
)

#: Modules whose functions do not tell their role by their names or arguments.
ROLE_OF_MODULE = {
    "db.partitions": OWNER,
    "db.migrate": OWNER,
    "db.pool": TENANT,
    "db.revocations": PIPELINE,
    "db.server": PIPELINE,
}
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")
_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|TRUNCATE|MERGE|LOCK)\b")


@dataclass(frozen=True)
class Statement:
    """One constant that holds SQL. `roles` are those that run it; none when nobody was found to."""

    module: str
    name: str
    sql: str
    roles: frozenset[str]
    is_template: bool
    has_variants: bool

    @property
    def id(self) -> str:
        return f"{self.module.removeprefix('db.')}.{self.name}"


def statements() -> list[Statement]:
    """List the statements of all modules of `db` but the migrations."""
    return [found for module in _modules() for found in _of_module(module)]


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(db.__path__, "db."):
        if not info.name.startswith("db.migrations"):
            yield importlib.import_module(info.name)


def _of_module(module: ModuleType) -> Iterator[Statement]:
    held = {
        name: value
        for name, value in vars(module).items()
        if _CONSTANT.fullmatch(name) and isinstance(value, str) and _STATEMENT.match(value)
    }
    if not held:
        return
    source = _Source(ast.parse(inspect.getsource(module)), module.__name__)
    for name, sql in held.items():
        if name not in source.assigned:  # imported from another module, which holds it
            continue
        yield Statement(
            module.__name__,
            name,
            sql,
            frozenset(source.roles[name]),
            re.search(r"\{[a-z_]*\}", sql) is not None,
            any(f"{name}.format(" in ast.unparse(value) for value in source.assigned.values()),
        )


class _Source:
    """Who uses what within one module."""

    def __init__(self, tree: ast.Module, module: str) -> None:
        self._module = module
        self._functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        self.assigned: dict[str, ast.expr] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.assigned[node.target.id] = node.value
        self._callers: dict[str, set[str]] = defaultdict(set)
        for name, node in self._functions.items():
            for used in _names(node) & set(self._functions) - {name}:
                self._callers[used].add(name)
        self.roles: dict[str, set[str]] = defaultdict(set)
        for name, node in self._functions.items():
            for used in _names(node):
                self._use(used, self._roles_of_function(name, frozenset()))

    def _use(self, name: str, roles: set[str]) -> None:
        """Note who uses a constant, and with it the constants it is made of."""
        if name not in self.assigned or roles <= self.roles[name]:
            return
        self.roles[name] |= roles
        for part in _names(self.assigned[name]):
            self._use(part, roles)

    def _roles_of_function(self, name: str, above: frozenset[str]) -> set[str]:
        node = self._functions[name]
        uses = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        if name.endswith("_across_projects") or "across_projects" in uses:
            return {PIPELINE}
        if name.startswith("_") and self._callers[name] - above:
            callers = self._callers[name] - above - {name}
            return set().union(*(self._roles_of_function(one, above | {name}) for one in callers))
        if any(argument.arg == "project_id" for argument in node.args.args) or "for_project" in uses:
            return {TENANT}
        return {ROLE_OF_MODULE[self._module]} if self._module in ROLE_OF_MODULE else set()


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
