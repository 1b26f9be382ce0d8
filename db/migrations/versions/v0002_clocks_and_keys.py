"""What client clocks said; messageId keys claimed in one call."""

from db.migrations.sql_file import run_sql_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_file("0002_clocks_and_keys.sql")
