"""Dead letters in a table; limits of retries count from when somebody last asked."""

from db.migrations.sql_file import run_sql_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_file("0004_dead_letters.sql")
