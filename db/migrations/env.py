"""Alembic's entry: runs on the connection that `db.migrate` opened."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="boost_schema_version", transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
