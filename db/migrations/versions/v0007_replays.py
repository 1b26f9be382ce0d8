"""Stored events run again through their handler: cut-overs, replays, and whose effect a counter is."""

from db.migrations.sql_file import run_sql_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_file("0007_replays.sql")
