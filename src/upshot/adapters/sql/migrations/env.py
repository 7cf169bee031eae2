# ruff: noqa: INP001 - Alembic loads this file by its path
"""
The Alembic environment: migrations run in the transaction that `upshot.adapters.sql.migrate` passes in.

Write the next migration by hand as `versions/000N_….py` and add its revision to `migrate.py`. The
test that compares the migrated tables with `schema.py` prints what is missing.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
