"""`/auth/api-keys`: make a key (shown once), list keys (never shown again), revoke one."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from boost_streams.api_key import Environment, make_key
from boost_streams.errors import FieldProblem, Invalid, MalformedJson, NotFound
from db import api_keys
from web.auth import Scope, require
from web.body import read_bytes
from web.byte_budget import ByteBudget
from web.services import json_response, services_of

#: The longest body of these requests (bytes, decompressed).
MOST_BODY_BYTES = 64 * 1024

_Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_too_short": "must not be blank",
    "string_pattern_mismatch": "must not contain control characters",
    "model_type": "must be an object",
}


class SmallBody(BaseModel):
    """The body of a small request: its fields in camelCase, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, hide_input_in_errors=True)


B = TypeVar("B", bound=SmallBody)


class NewKeyBody(SmallBody):
    """The body of `POST /auth/api-keys`."""

    name: _Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=10)] = ["ingest", "read", "admin"]
    environment: Environment = "live"


class ShownKey(msgspec.Struct, rename="camel"):
    """What a list says of a key."""

    id: UUID
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: Any
    last_used_at: Any
    revoked_at: Any


async def create_key(request: web.Request) -> web.Response:
    """Make a key of the caller's project and show it, this once. Needs the scope `admin`.

    Raises:
        Unauthorized, Forbidden, MalformedJson, TooLarge, Invalid, Unavailable: As their names say.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "admin")
    body = await read_body(request, NewKeyBody)
    key = make_key(body.environment)
    scopes = list(dict.fromkeys(body.scopes))
    async with services.database.for_project(identity.project_id) as connection:
        made = await api_keys.create_key(connection, identity.project_id, key, body.name, scopes=scopes)
    answer = {
        "id": made.id,
        "key": key,
        "prefix": made.prefix,
        "name": made.name,
        "scopes": made.scopes,
        "createdAt": made.created_at,
    }
    return json_response(answer, status=201, headers={"Cache-Control": "no-store"})


async def list_keys(request: web.Request) -> web.Response:
    """List the keys of the caller's project: prefix, name and times; neither key nor hash. Needs `read`.

    Raises:
        Unauthorized, Forbidden, Unavailable: As their names say.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    async with services.database.for_project(identity.project_id) as connection:
        found = await api_keys.list_keys(connection, identity.project_id)
    return json_response({"items": [_shown(key) for key in found]})


async def revoke_key(request: web.Request) -> web.Response:
    """Revoke a key of the caller's project; a second time gives the same answer. Needs the scope `admin`.

    Raises:
        Forbidden: The key is another project's; nothing was changed.
        NotFound: There is no such key.
        Unauthorized, Unavailable: As their names say.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "admin")
    key_id = _key_id(request)
    revoked = await api_keys.revoke_or_explain(services.database, identity.project_id, key_id)
    await services.authenticator.forget(revoked.key_hash)
    return json_response({"id": revoked.key_id, "revokedAt": revoked.revoked_at})


async def read_body(request: web.Request, model: type[B]) -> B:
    """Read a small JSON body.

    Raises:
        TooLarge: It has more than 64 KiB.
        MalformedJson: It is not JSON, or did not arrive in time.
        Invalid: A field is missing, unknown or wrong; names every one.
    """
    body = await read_bytes(request, MOST_BODY_BYTES, ByteBudget(2 * MOST_BODY_BYTES).lease())
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        raise MalformedJson("the body is not JSON")
    problems = tuple(_problem(one) for one in found)
    raise Invalid("; ".join(f"{p.field}: {p.message}" for p in problems), problems=problems)


def _problem(found: Any) -> FieldProblem:
    field = ".".join(str(part) for part in found["loc"]) or "body"
    return FieldProblem(field, _MESSAGES.get(found["type"]) or str(found["msg"]))


def _key_id(request: web.Request) -> UUID:
    given = request.match_info["id"]
    try:
        return UUID(given)
    except ValueError:
        raise NotFound("there is no API key with this id") from None


def _shown(key: api_keys.ApiKey) -> ShownKey:
    return ShownKey(key.id, key.prefix, key.name, key.scopes, key.created_at, key.last_used_at, key.revoked_at)
