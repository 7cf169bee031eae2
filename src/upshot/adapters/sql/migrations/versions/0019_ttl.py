"""
Store when artifact versions expire, with the version, its artifact and its collections.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "19"
down_revision = "18"


def upgrade() -> None:
    for table in ("artifact_versions", "artifacts", "collections"):
        op.add_column(table, sa.Column("ttl_seconds", sa.BigInteger))
        is_set = sa.column("ttl_seconds").is_not(None)
        op.create_index(f"ix_{table}_ttl_seconds", table, ["ttl_seconds"], sqlite_where=is_set, postgresql_where=is_set)
