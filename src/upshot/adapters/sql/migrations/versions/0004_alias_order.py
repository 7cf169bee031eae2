"""Find the executions that answer the events of one alias, in the order of the events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    op.add_column("executions", sa.Column("alias_reference", sa.String(400)))
    op.create_index(
        "ix_executions_alias",
        "executions",
        ["alias_reference", "automation", "event_id"],
        sqlite_where=sa.text("alias_reference IS NOT NULL"),
        postgresql_where=sa.text("alias_reference IS NOT NULL"),
    )
