"""What settlements count is noted, and folded into rollups a second later."""

from db.migrations.sql_file import run_sql_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_file("0008_rollup_deltas.sql")
