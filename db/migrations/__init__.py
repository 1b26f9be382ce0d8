"""Migrations, applied by Alembic. An applied one never changes: a test holds their hashes."""

#: The newest revision; `boost migrate` brings a database here, readiness asks for it.
HEAD = "0014"
