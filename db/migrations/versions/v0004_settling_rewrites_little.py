"""What settling changes of an event stands at the end of its row."""

from db.migrations.sql_file import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_file("0004_settling_rewrites_little.sql")
