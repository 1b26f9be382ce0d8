"""Inserting events holds their projects once per statement: a foreign key asks for each of them."""

from db.migrations.sql_file import run_sql_file

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_file("0012_projects_are_held_by_statement.sql")
