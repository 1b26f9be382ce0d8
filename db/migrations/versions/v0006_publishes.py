"""Who published an event again, and when."""

from db.migrations.sql_file import run_sql_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_file("0006_publishes.sql")
