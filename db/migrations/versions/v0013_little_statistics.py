"""ANALYZE looks at fewer events, and not at their payloads."""

from db.migrations.sql_file import run_sql_file

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql_file("0013_little_statistics.sql")
