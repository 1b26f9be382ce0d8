"""What a dead worker left on its way says that it may be why it died."""

from db.migrations.sql_file import run_sql_file

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql_file("0010_what_a_dead_worker_left.sql")
