"""Settling moves its events in one statement, where the server goes through a list of keys in one scan."""

from db.migrations.sql_file import run_sql_file

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql_file("0011_settle_in_one_statement.sql")
