# ruff: noqa: INP001 - Alembic loads this file by its path
"""
The Alembic environment. Migrations run in the transaction that `upshot.adapters.sql.migrate` opens.

To change the schema, edit `schema.py`, write a migration `versions/000N_….py` by hand, and add its
revision to `migrate.REVISIONS`. `tests/contract/test_migrations.py` prints what the migration misses,
and upgrades a database with data from the first revision.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
