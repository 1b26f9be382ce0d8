"""Who handles which partition, and which topics are paused."""

from db.migrations.sql_file import run_sql_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_file("0005_handlers_in_hand.sql")
