"""Add the destination or automation that an execution waits for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    waits_for = sa.String(400).with_variant(sa.String(400, collation="C"), "postgresql")
    op.add_column("executions", sa.Column("waits_for", waits_for))
    op.create_index(
        "ix_executions_waits_for",
        "executions",
        ["waits_for", "event_id", "id"],
        sqlite_where=sa.text("waits_for IS NOT NULL"),
        postgresql_where=sa.text("waits_for IS NOT NULL"),
    )
