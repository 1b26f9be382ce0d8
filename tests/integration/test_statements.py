"""Every statement of the package `db` fits the migrated schema, and its role may run it.

PREPARE checks names and types; EXPLAIN EXECUTE checks the role's rights as well, and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.support.statements import OWNER, PIPELINE, TENANT, TENANT_TABLES, Statement, statements

ALL = statements()
#: What PREPARE cannot take is run.
RUN = re.compile(r"\s*(TRUNCATE|LOCK)\b")


@pytest.fixture
async def superuser(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def prepare(connection: asyncpg.Connection[Any], statement: Statement, role: str) -> None:
    if role != OWNER:
        await connection.execute(f"SET LOCAL ROLE {role}")
    if RUN.match(statement.sql):
        await connection.execute(statement.sql)
        return
    await connection.execute(f"PREPARE checked AS {statement.sql}")
    parameters: int = await connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'checked'"
    )
    arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
    await connection.execute(f"EXPLAIN EXECUTE checked{arguments}")
    await connection.execute("DEALLOCATE checked")


async def test_every_statement_is_prepared_as_its_role(superuser: asyncpg.Connection[Any]) -> None:
    problems = []
    for statement in ALL:
        if statement.is_template:
            continue
        for role in sorted(statement.roles):
            transaction = superuser.transaction()
            await transaction.start()
            try:
                await prepare(superuser, statement, role)
            except asyncpg.PostgresError as error:
                problems.append(f"{statement.id} as {role}: {error}")
            await transaction.rollback()
    assert not problems, "\n".join(problems)


def test_every_statement_has_a_role() -> None:
    assert len(ALL) > 50
    assert not [statement.id for statement in ALL if not statement.roles]


def test_a_template_has_variants_that_are_prepared() -> None:
    assert not [statement.id for statement in ALL if statement.is_template and not statement.has_variants]


def test_statements_on_a_tenants_data_name_its_project() -> None:
    tables = re.compile(rf"\b(?:FROM|INTO|UPDATE|JOIN)\s+(?:{'|'.join(TENANT_TABLES)})\b")
    careless = [
        statement.id
        for statement in ALL
        if TENANT in statement.roles and tables.search(statement.sql) and "project_id" not in statement.sql
    ]
    assert not careless


def test_what_the_walk_finds_is_not_empty_for_either_role() -> None:
    roles = {statement.id: statement.roles for statement in ALL}
    assert roles["api_keys._REVOKE"] == {TENANT}
    assert roles["api_keys._FIND"] == {PIPELINE}
    assert roles["projects._DELETE_ROLLUPS"] == {PIPELINE}
    assert roles["partitions._UNSETTLED_BEFORE"] == {PIPELINE}


async def test_the_check_sees_what_is_wrong(superuser: asyncpg.Connection[Any]) -> None:
    def of(sql: str) -> Statement:
        return Statement("db.x", "_X", sql, frozenset({TENANT}), False, False)

    async with superuser.transaction():
        with pytest.raises(asyncpg.UndefinedColumnError):
            async with superuser.transaction():
                await prepare(superuser, of("SELECT nonsense FROM events WHERE project_id = $1"), TENANT)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with superuser.transaction():
                await prepare(superuser, of("DELETE FROM events WHERE project_id = $1"), TENANT)
