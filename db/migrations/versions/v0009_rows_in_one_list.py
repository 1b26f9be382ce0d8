"""Rows come in one list in place of a list per column."""

from db.migrations.sql_file import run_sql_file

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_file("0009_rows_in_one_list.sql")
