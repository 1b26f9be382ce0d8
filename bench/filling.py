"""Fills `events` with millions of settled rows of many projects, on the server, as fast as it goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

_CHUNK = 250_000
#: Rows are spread over so many hours up to now: they lie in the partitions of today and yesterday.
_HOURS = 24
_PROJECTS = """
INSERT INTO projects (id, organization_id, name)
SELECT md5('bench project ' || n)::uuid, (SELECT id FROM organizations LIMIT 1), 'large-' || n
FROM generate_series(0, %(projects)s - 1) n
"""
_BODIES = "CREATE TEMP TABLE bodies (n int PRIMARY KEY, body jsonb) ON COMMIT PRESERVE ROWS"
# The id is a UUIDv7 of the row's time; its project comes from a square, so that some have many more than others. Of a
# hundred events one failed. Two of the columns follow from others, as in a database that has run for a while.
_FILL = """
INSERT INTO events (id, project_id, event_type, status, user_id, session_id, payload, occurred_at, received_at,
                    created_at, settled_at, error, message_id)
SELECT (lpad(to_hex((extract(epoch FROM r.at) * 1000)::bigint), 12, '0') || '7' || substr(r.noise, 1, 3) || '8'
        || substr(r.noise, 4, 15))::uuid,
       md5('bench project ' || floor(%(projects)s * r.share * r.share)::int)::uuid,
       b.body ->> 'eventType', CASE WHEN r.n %% 100 = 0 THEN 'failed' ELSE 'processed' END,
       b.body ->> 'userId', b.body ->> 'sessionId', b.body -> 'payload', r.at, r.at, r.at, r.at + interval '20 ms',
       CASE WHEN r.n %% 100 = 0 THEN '{"code": "invalid", "field": "url", "message": "must be an address"}'::jsonb END,
       CASE WHEN %(message_ids)s THEN md5('message ' || r.n)::uuid::text END
FROM (
    SELECT n, md5('row ' || n) AS noise,
           ('x' || substr(md5('share ' || n), 1, 8))::bit(32)::bigint / 4294967296.0 AS share,
           now() - make_interval(secs => (%(rows)s - n)::float8 / %(rows)s * %(seconds)s) AS at
    FROM generate_series(%(first)s, %(last)s) n
) r JOIN bodies b ON b.n = r.n %% %(bodies)s
"""
# Every event that failed has its dead letter; they lie in the order in which the events failed.
_LETTERS = """
INSERT INTO dead_letters (project_id, id, event_type, handler, code, field, message, attempts,
                          first_failed_at, created_at, last_failed_at)
SELECT project_id, id, event_type, 'tracking', error ->> 'code', error ->> 'field', error ->> 'message', 1,
       settled_at, settled_at, settled_at
FROM events WHERE status = 'failed' ORDER BY id
"""


def fill(
    url: str, bodies: Path, *, rows: int, projects: int, say: Callable[[str], None], message_ids: bool = False
) -> None:
    """Add projects, and rows that belong to them, without checking foreign keys; then VACUUM and ANALYZE."""
    lines = bodies.read_text().splitlines()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        connection.execute(_PROJECTS, {"projects": projects})
        connection.execute(_BODIES)
        with connection.cursor().copy("COPY bodies FROM STDIN") as copy:
            for number, line in enumerate(lines):
                copy.write_row((number, line))
        connection.execute("ANALYZE bodies")
        for first in range(0, rows, _CHUNK):
            last = min(first + _CHUNK, rows) - 1
            connection.execute(
                _FILL,
                {
                    "projects": projects,
                    "rows": rows,
                    "seconds": _HOURS * 3600,
                    "first": first,
                    "last": last,
                    "bodies": len(lines),
                    "message_ids": message_ids,
                },
            )
            if (last + 1) % (4 * _CHUNK) == 0:
                say(f"{last + 1:,} of {rows:,} rows")
        connection.execute(_LETTERS)
        connection.execute("VACUUM (ANALYZE) events, dead_letters")
        connection.execute("CHECKPOINT")
