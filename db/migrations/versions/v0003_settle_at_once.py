"""A batch settles in one call."""

from db.migrations.sql_file import run_sql_file

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_file("0003_settle_at_once.sql")
