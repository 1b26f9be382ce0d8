"""`/dead-letters`: a project's dead letters, listed, shown, replayed and discarded."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from aiohttp import web

from boost_streams.errors import NotFound
from db import dead_letters
from db.dead_letters import StoredLetter
from db.pool import Connection, Database
from web.auth import Scope, require
from web.keys import read_body
from web.letter_filters import DISCARDABLE, REPLAYABLE, Selection, SelectionBody, read_query, read_selection
from web.services import json_response, services_of

#: How many pieces (`db.dead_letters.PIECE`) one request works through: about a second's work.
MOST_PIECES = 10

#: What is done to the letters of a piece; returns how many it was done to.
Change = Callable[[Connection, UUID, list[UUID]], Awaitable[int]]

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


async def list_letters(request: web.Request) -> web.Response:
    """Answer a page of the caller's dead letters, those that failed last first: `{"items", "nextCursor"}`.

    Raises:
        Invalid: A query parameter is wrong or unknown; names each.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    wanted, limit, cursor = read_query(request.query)
    async with services.database.for_project(identity.project_id) as connection:
        page = await dead_letters.list_letters(
            connection, identity.project_id, limit=limit, wanted=wanted, cursor=cursor
        )
    items = [letter_as_json(letter) for letter in page.items]
    return json_response({"items": items, "nextCursor": page.next_cursor})


async def get_letter(request: web.Request) -> web.Response:
    """Answer one dead letter of the caller's project.

    Raises:
        NotFound: The project has no such letter, or the id in the path is none.
    """
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, "read")
    text = request.match_info["id"]
    if not _UUID.fullmatch(text):
        raise NotFound("there is no such dead letter in this project: the id is not a UUID")
    async with services.database.for_project(identity.project_id) as connection:
        letter = await dead_letters.get_letter(connection, identity.project_id, UUID(text))
    return json_response(letter_as_json(letter))


async def replay(request: web.Request) -> web.Response:
    """Hand the events of letters over again: 202 `{"replayed", "nextCursor"}`; with `dryRun` 200 `{"count"}`.

    Raises:
        Invalid: A field is wrong; names each.
    """
    done = await _change(request, "ingest", REPLAYABLE, dead_letters.replay_letters)
    if isinstance(done, int):
        return json_response({"count": done})
    return json_response({"replayed": done[0], "nextCursor": done[1]}, status=202)


async def discard(request: web.Request) -> web.Response:
    """Close letters: 200 `{"discarded", "nextCursor"}`; with `dryRun` `{"count"}`.

    Raises:
        Invalid: A field is wrong; names each.
    """
    done = await _change(request, "admin", DISCARDABLE, dead_letters.discard_letters)
    if isinstance(done, int):
        return json_response({"count": done})
    return json_response({"discarded": done[0], "nextCursor": done[1]})


async def _change(
    request: web.Request, scope: Scope, statuses: tuple[dead_letters.Status, ...], change: Change
) -> int | tuple[int, str | None]:
    services = services_of(request)
    identity = await services.authenticator.project_of(request)
    require(identity, scope)
    selection = read_selection(await read_body(request, SelectionBody), statuses)
    if selection.dry_run:
        return await count(services.database, identity.project_id, selection)
    return await work_through(services.database, identity.project_id, selection, change)


async def count(database: Database, project_id: UUID, selection: Selection) -> int:
    """Count the letters that a selection means."""
    async with database.for_project(project_id) as connection:
        if selection.ids is None:
            return await dead_letters.count_letters(connection, project_id, selection.wanted)
        found = await dead_letters.letters_in_status(connection, project_id, selection.ids, selection.statuses)
    return len(found)


async def work_through(
    database: Database, project_id: UUID, selection: Selection, change: Change, *, most_pieces: int = MOST_PIECES
) -> tuple[int, str | None]:
    """Change the letters of a selection, each piece in a transaction of its own.

    Returns:
        How many were changed, and the cursor from which to go on: None when all pieces are done.
    """
    changed, cursor = 0, selection.cursor
    for _ in range(most_pieces):
        async with database.for_project(project_id) as connection:
            if selection.ids is not None:
                ids = await dead_letters.letters_in_status(connection, project_id, selection.ids, selection.statuses)
                return await change(connection, project_id, ids), None
            piece = await dead_letters.next_piece(connection, project_id, selection.wanted, cursor=cursor)
            changed += await change(connection, project_id, piece.ids)
        cursor = piece.next_cursor
        if cursor is None:
            break
    return changed, cursor


def letter_as_json(letter: StoredLetter) -> dict[str, Any]:
    """Shape a dead letter as HTTP shows it; its history goes in as PostgreSQL wrote it."""
    origin = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
    return {
        "id": letter.id,
        "eventType": letter.event_type,
        "handler": letter.handler,
        "status": letter.status,
        "error": {"code": letter.code, "field": letter.field, "message": letter.message},
        "attempts": letter.attempts,
        "firstFailedAt": letter.first_failed_at,
        "lastFailedAt": letter.last_failed_at,
        "origin": None if letter.topic is None else origin,
        "replays": letter.replays,
        "history": letter.history,
        "closedAt": letter.closed_at,
    }
