"""Lists of ids that are written and read here are, to PostgreSQL, what the driver writes, and to us what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg.pgproto.pgproto import UUID as FastUUID

from db.codecs import decode_uuids, encode_uuids
from db.pool import Database

ONE, LAST = UUID(int=1), UUID(int=2**128 - 1)
LISTS: list[Sequence[UUID | None]] = [
    [],
    [ONE],
    (LAST, ONE, LAST),
    [None],
    [ONE, None, LAST, None],
    [FastUUID(LAST.bytes), ONE],
    [uuid4() for _ in range(3000)],
]


@pytest.mark.parametrize("ids", LISTS, ids=lambda ids: str(len(ids)))
async def test_a_list_is_what_the_driver_would_write_and_read(
    database: Database, database_url: str, ids: Sequence[UUID | None]
) -> None:
    read = "SELECT $1::uuid[]::text, $1::uuid[], cardinality($1::uuid[]), $1::uuid[] IS NULL"
    async with database.across_projects() as connection:
        ours = await connection.fetchrow(read, ids)
    plain = await asyncpg.connect(database_url)
    try:
        theirs = await plain.fetchrow(read, ids)
    finally:
        await plain.close()
    assert ours is not None
    assert tuple(ours) == tuple(theirs or ())
    assert ours[1] == list(ids)
    assert {type(one) for one in ours[1]} <= {FastUUID, type(None)}


async def test_null_is_no_list_and_a_list_may_begin_anywhere(database: Database) -> None:
    async with database.across_projects() as connection:
        assert await connection.fetchval("SELECT $1::uuid[]", None) is None
        assert await connection.fetchval("SELECT ('[3:4]={' || $1 || ',NULL}')::uuid[]", str(ONE)) == [ONE, None]


async def test_what_is_no_list_of_ids_is_told(database: Database) -> None:
    async with database.across_projects() as connection:
        with pytest.raises(ValueError, match="one dimension, not 2"):
            await connection.fetchval("SELECT array[array[gen_random_uuid()]]")
        with pytest.raises(asyncpg.DataError, match="has no attribute 'int'"):
            await connection.fetchval("SELECT $1::uuid[]", ["not an id"])
        assert await connection.fetchval("SELECT $1::uuid[]", [ONE]) == [ONE]


def test_what_is_written_is_read() -> None:
    for ids in LISTS:
        assert decode_uuids(encode_uuids(ids)) == list(ids)
