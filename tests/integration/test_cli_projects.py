"""`boost migrate`, `boost projects` and `boost keys` against a real database."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from boost_streams.api_key import hash_key, is_well_formed
from boost_streams.cli.main import cli
from db.api_keys import find_by_hash_across_projects
from db.bootstrap import ensure_demo_project, release_unsettled
from db.pool import Database

pytestmark = pytest.mark.usefixtures("restored_logging")


class Boost:
    """The command line with its environment."""

    def __init__(self, database_url: str) -> None:
        self._env = {"NODE_ENV": "test", "DATABASE_URL": database_url, "COLUMNS": "200"}

    def __call__(self, *arguments: str, text: str | None = None, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, arguments, env=self._env, input=text)
        assert done.exit_code == code, (done.output, done.exception)
        return done


@pytest.fixture
def boost(database_url: str) -> Boost:
    return Boost(database_url)


def create(boost: Boost, name: str = "shop") -> dict[str, str]:
    made: dict[str, str] = json.loads(boost("projects", "create", name, "--json").stdout)
    return made


def test_from_an_empty_database_to_a_key(empty_database_url: str) -> None:
    boost = Boost(empty_database_url)
    assert "run boost migrate" in boost("projects", "create", "shop", code=1).stderr
    assert boost("migrate").stdout.startswith("the schema is at ")
    boost("migrate")
    done = boost("projects", "create", "shop")
    lines = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    assert is_well_formed(lines["API key"])
    assert "not shown again" in done.stderr
    listed = json.loads(boost("projects", "list", "--json").stdout)
    assert [(one["id"], one["name"], one["organization"]) for one in listed] == [(lines["project"], "shop", "default")]
    assert lines["project"] in boost("projects", "list").stdout


def test_a_name_is_taken_once_per_organization(boost: Boost) -> None:
    create(boost)
    assert "already" in boost("projects", "create", "shop", code=1).stderr
    boost("projects", "create", "shop", "--organization", "acme")


def test_deleting_asks_first(boost: Boost) -> None:
    project = create(boost)["projectId"]
    done = boost("projects", "delete", project, text="n\n", code=1)
    assert "'shop'" in done.stdout
    assert len(json.loads(boost("projects", "list", "--json").stdout)) == 1
    assert f"deleted {project}: 0 events" in boost("projects", "delete", project, text="y\n").stdout
    assert json.loads(boost("projects", "list", "--json").stdout) == []
    assert "there is no project" in boost("projects", "delete", project, "--yes", code=1).stderr


def test_a_project_keeps_events_for_its_own_time(boost: Boost) -> None:
    project = create(boost)["projectId"]
    assert f"{project} keeps events for 30 days" in boost("projects", "retain", project, "30").stdout
    assert [one["retentionDays"] for one in json.loads(boost("projects", "list", "--json").stdout)] == [30]
    assert "as RETENTION_DAYS says" not in boost("projects", "list").stdout
    boost("projects", "retain", project)
    assert [one["retentionDays"] for one in json.loads(boost("projects", "list", "--json").stdout)] == [None]
    assert "0" in boost("projects", "retain", project, "0", code=2).stderr
    assert "there is no project" in boost("projects", "retain", str(uuid4()), "3", code=1).stderr


def test_keys_are_made_listed_and_revoked(boost: Boost) -> None:
    project = create(boost)["projectId"]
    made = json.loads(boost("keys", "create", "--project", project, "--name", "ci", "--scope", "read", "--json").stdout)
    assert made["key"].startswith("bst_live_")
    assert made["scopes"] == ["read"]
    shown = boost("keys", "create", "--project", project, "--name", "local", "--test").stdout
    assert "bst_test_" in shown
    listed = boost("keys", "list", "--project", project, "--json").stdout
    assert [key["name"] for key in json.loads(listed)] == ["first key", "ci", "local"]
    assert made["key"] not in listed
    assert made["prefix"] in boost("keys", "list", "--project", project).stdout
    assert "revoked" in boost("keys", "revoke", made["id"], "--project", project).stdout
    again = json.loads(boost("keys", "list", "--project", project, "--json").stdout)
    assert [key["revokedAt"] is not None for key in again] == [False, True, False]


def test_keys_of_others_and_of_nobody(boost: Boost) -> None:
    mine, other = create(boost)["projectId"], create(boost, "forum")["projectId"]
    key = json.loads(boost("keys", "list", "--project", other, "--json").stdout)[0]["id"]
    assert "another project" in boost("keys", "revoke", key, "--project", mine, code=1).stderr
    assert "no API key" in boost("keys", "revoke", str(uuid4()), "--project", mine, code=1).stderr
    assert "no project" in boost("keys", "create", "--project", str(uuid4()), "--name", "x", code=1).stderr
    assert "no project" in boost("keys", "list", "--project", str(uuid4()), code=1).stderr


def test_a_project_is_named_by_its_name_where_only_one_has_it(boost: Boost) -> None:
    project = create(boost, "shop")["projectId"]
    for arguments in (
        ("keys", "list"),
        ("events", "list"),
        ("dead-letters", "list"),
        ("counters",),
        ("replay", "--handler", "payment", "--dry-run"),
    ):
        boost(*arguments, "--project", "shop")
        unknown = boost(*arguments, "--project", "shed", code=1).stderr
        assert unknown == "boost: there is no project with the id or name 'shed'; boost projects list shows all\n"
    assert f"{project} keeps events for 30 days" in boost("projects", "retain", "shop", "30").stdout
    made = json.loads(boost("projects", "create", "shop", "--organization", "other", "--json").stdout)
    several = boost("keys", "list", "--project", "shop", code=1).stderr
    assert "2 projects are named 'shop', give the id of one" in several
    assert f"{project} (organization default)" in several
    assert f"{made['projectId']} (organization other)" in several
    assert boost("keys", "list", "--project", project, "--json").stdout != "[]\n"


async def test_the_demo_project_is_made_once_and_its_key_kept(database: Database, database_url: str) -> None:
    first = await ensure_demo_project(database_url, None)
    assert first.api_key.startswith("bst_test_")
    assert await ensure_demo_project(database_url, first.api_key) == first
    for stale in (None, "rubbish", "bst_test_" + "0" * 36):
        fresh = await ensure_demo_project(database_url, stale)
        assert fresh.project_id == first.project_id
        assert fresh.api_key != first.api_key
    async with database.across_projects() as connection:
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE key_hash = $1", hash_key(first.api_key))
        assert await find_by_hash_across_projects(connection, hash_key(first.api_key)) is None
    assert (await ensure_demo_project(database_url, first.api_key)).api_key != first.api_key
    assert await release_unsettled(database_url) == 0
