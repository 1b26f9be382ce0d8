"""Runs the SQL file of a migration through Alembic's connection."""

from pathlib import Path

from alembic import op

_FOLDER = Path(__file__).parent / "sql"


def run_sql_file(name: str) -> None:
    """Run every statement of `db/migrations/sql/<name>` in the migration's transaction."""
    # Without parameters, so that psycopg takes no `%` for a placeholder and several statements for one script.
    sql = (_FOLDER / name).read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(sql, execution_options={"no_parameters": True})
