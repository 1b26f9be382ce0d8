"""`/auth/api-keys` over HTTP, against a real database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from boost_streams.api_key import is_well_formed
from boost_streams.settings import Settings
from db.pool import Database
from tests.support.projects import TestProject, make_project
from tests.support.waiting import eventually
from tests.support.web import Client, authenticator, http_client
from web import keys
from web.auth import Identity
from web.services import json_response, services_of

KEYS = "/auth/api-keys"


async def who(request: web.Request) -> web.Response:
    identity: Identity = await services_of(request).authenticator.project_of(request)
    return json_response({"project": identity.project_id, "scopes": sorted(identity.scopes)})


ROUTES = {
    ("POST", KEYS): keys.create_key,
    ("GET", KEYS): keys.list_keys,
    ("DELETE", KEYS + "/{id}"): keys.revoke_key,
    ("GET", "/who"): who,
}


@pytest.fixture
async def client(database: Database, settings: Settings) -> AsyncIterator[Client]:
    async with (
        authenticator(database, settings) as known,
        http_client(ROUTES, database, settings, known) as made,
    ):
        yield made


async def stored(database: Database) -> str:
    """Everything the table of keys holds, as text."""
    async with database.across_projects() as connection:
        return "\n".join(
            row["row"] for row in await connection.fetch("SELECT api_keys::text AS row FROM api_keys ORDER BY id")
        )


async def test_a_key_is_shown_once_and_only_its_hash_is_stored(
    client: Client, database: Database, project: TestProject
) -> None:
    answer = await client.post(KEYS, json={"name": "backend"}, headers=project.headers)
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = await answer.json()
    assert sorted(made) == ["createdAt", "id", "key", "name", "prefix", "scopes"]
    key = made["key"]
    assert key.startswith("bst_live_")
    assert is_well_formed(key)
    assert made["prefix"] == key[:13]
    assert made["name"] == "backend"
    assert made["scopes"] == ["ingest", "read", "admin"]

    text = await stored(database)
    assert key not in text
    assert key[13:] not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text

    listed = await (await client.get(KEYS, headers={"x-api-key": key})).text()
    assert key not in listed
    assert hashlib.sha256(key.encode()).hexdigest() not in listed
    items = json.loads(listed)["items"]
    assert [item["name"] for item in items] == ["test", "backend"]
    assert sorted(items[0]) == ["createdAt", "id", "lastUsedAt", "name", "prefix", "revokedAt", "scopes"]
    assert items[1]["id"] == made["id"]
    assert items[1]["createdAt"] == made["createdAt"]


async def test_a_new_key_works_with_either_header(client: Client, project: TestProject) -> None:
    made = await (
        await client.post(KEYS, json={"name": "a", "scopes": ["read", "read"]}, headers=project.headers)
    ).json()
    for headers in ({"x-api-key": made["key"]}, {"Authorization": f"bearer {made['key']}"}):
        answer = await client.get("/who", headers=headers)
        assert answer.status == 200
        assert await answer.json() == {"project": str(project.id), "scopes": ["read"]}


async def test_a_revoked_key_is_refused_at_once(client: Client, project: TestProject) -> None:
    made = await (await client.post(KEYS, json={"name": "a"}, headers=project.headers)).json()
    mine = {"x-api-key": made["key"]}
    assert (await client.get("/who", headers=mine)).status == 200
    first = await client.delete(f"{KEYS}/{made['id']}", headers=project.headers)
    assert first.status == 200
    assert (await client.get("/who", headers=mine)).status == 401
    again = await client.delete(f"{KEYS}/{made['id']}", headers=project.headers)
    assert again.status == 200
    assert await again.json() == await first.json()
    listed = await (await client.get(KEYS, headers=project.headers)).json()
    assert listed["items"][1]["revokedAt"] == (await first.json())["revokedAt"]
    assert listed["items"][0]["revokedAt"] is None


async def test_another_projects_key_cannot_be_revoked(
    client: Client, database: Database, project: TestProject, other_project: TestProject
) -> None:
    before = await stored(database)
    answer = await client.delete(f"{KEYS}/{other_project.key_id}", headers=project.headers)
    assert answer.status == 403
    assert (await answer.json())["code"] == "forbidden"
    assert await stored(database) == before
    assert (await client.get("/who", headers=other_project.headers)).status == 200


@pytest.mark.parametrize("key_id", [str(uuid4()), "nonsense", "%00"])
async def test_an_unknown_key_cannot_be_revoked(client: Client, project: TestProject, key_id: str) -> None:
    answer = await client.delete(f"{KEYS}/{key_id}", headers=project.headers)
    assert answer.status == 404
    assert (await answer.json())["code"] == "not_found"


async def test_a_list_shows_only_the_callers_keys(
    client: Client, project: TestProject, other_project: TestProject
) -> None:
    items = (await (await client.get(KEYS, headers=project.headers)).json())["items"]
    assert [item["id"] for item in items] == [str(project.key_id)]


@pytest.mark.parametrize(
    ("scopes", "method", "status"),
    [
        (["ingest", "read"], "POST", 403),
        (["ingest", "read"], "DELETE", 403),
        (["ingest", "read"], "GET", 200),
        (["ingest", "admin"], "GET", 403),
        (["admin"], "POST", 201),
    ],
)
async def test_what_a_key_may_do_is_in_its_scopes(
    client: Client, database: Database, scopes: list[str], method: str, status: int
) -> None:
    limited = await make_project(database, "limited", scopes=scopes)
    path = KEYS if method != "DELETE" else f"{KEYS}/{limited.key_id}"
    body = {"name": "more"} if method == "POST" else None
    answer = await client.request(method, path, json=body, headers=limited.headers)
    assert answer.status == status


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "key": "b"}, "key"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "scopes": "admin"}, "scopes"),
        ({"name": "a", "environment": "prod"}, "environment"),
        ([], "body"),
    ],
)
async def test_a_wrong_field_is_named(client: Client, project: TestProject, body: object, field: str) -> None:
    answer = await client.post(KEYS, json=body, headers=project.headers)
    assert answer.status == 422
    said = await answer.json()
    assert said["code"] == "invalid"
    assert [problem["field"] for problem in said["errors"]] == [field]
    assert said["requestId"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"name": "\\ud800"}', b"\xff", b"[" * 10_000])
async def test_what_is_not_json_is_refused(client: Client, project: TestProject, body: bytes) -> None:
    answer = await client.post(KEYS, data=body, headers=project.headers)
    assert answer.status == 400
    assert (await answer.json())["code"] == "malformed_json"


async def test_a_body_over_64_kib_is_refused(client: Client, project: TestProject) -> None:
    answer = await client.post(KEYS, data=b'{"name": "' + b"x" * 70_000 + b'"}', headers=project.headers)
    assert answer.status == 413
    assert (await answer.json())["code"] == "too_large"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "bst_live_short"},
        {"x-api-key": "bst_live_" + "a" * 36},
        {"x-api-key": "pk_live_" + "0" * 64},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer"},
    ],
)
async def test_without_a_good_key_the_answer_is_401(client: Client, headers: dict[str, str]) -> None:
    answer = await client.get(KEYS, headers=headers)
    assert answer.status == 401
    assert (await answer.json())["code"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_use_of_a_key_is_noted(client: Client, project: TestProject) -> None:
    assert (await client.get("/who", headers=project.headers)).status == 200

    async def last_used() -> str | None:
        items = (await (await client.get(KEYS, headers=project.headers)).json())["items"]
        used: str | None = items[0]["lastUsedAt"]
        return used

    first = await eventually(last_used)
    assert await last_used() == first


async def test_use_is_noted_once_a_minute(database: Database, project: TestProject) -> None:
    from db.api_keys import touch_across_projects

    async with database.across_projects() as connection:
        assert await touch_across_projects(connection, [project.key_id]) == 1
        assert await touch_across_projects(connection, [project.key_id, UUID(int=0)]) == 0
        await connection.execute("UPDATE api_keys SET last_used_at = now() - interval '61 seconds'")
        assert await touch_across_projects(connection, [project.key_id]) == 1


async def test_a_deleted_projects_key_is_refused(client: Client, database: Database, project: TestProject) -> None:
    from db.projects import delete_project_across_projects

    assert (await client.get("/who", headers=project.headers)).status == 200
    async with database.across_projects() as connection:
        await delete_project_across_projects(connection, project.id)

    async def refused() -> bool:
        return (await client.get("/who", headers=project.headers)).status == 401

    await eventually(refused, deadline=1)
