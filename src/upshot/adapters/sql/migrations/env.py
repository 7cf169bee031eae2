# ruff: noqa: INP001 - Alembic loads this file by its path
"""
What Alembic runs migrations in: the transaction that `upshot.adapters.sql.migrate` hands over.

The next migration is written by hand, as `versions/000N_….py`, and named in `migrate.py`; the
test that compares what migrations make with `schema.py` prints what is missing.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
