"""What clients' clocks said; the current generation of keys read behind its lock."""

from db.migrations.sql_file import run_sql_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_file("0002_client_clocks.sql")
