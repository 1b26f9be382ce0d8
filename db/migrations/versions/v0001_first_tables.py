"""First tables, the three roles and row-level security."""

from db.migrations.sql_file import run_sql_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_file("0001_first_tables.sql")
