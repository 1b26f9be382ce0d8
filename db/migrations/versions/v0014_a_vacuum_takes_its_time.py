"""A vacuum of a day of events pauses as the server's settings say."""

from db.migrations.sql_file import run_sql_file

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_file("0014_a_vacuum_takes_its_time.sql")
