"""Create the table of destinations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    name = sa.String(300).with_variant(sa.String(300, collation="C"), "postgresql")
    op.create_table(
        "destinations",
        sa.Column("name", name, nullable=False),
        sa.Column("worker_id", sa.String(80), nullable=False),
        sa.Column("is_down", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("in_progress", sa.Integer, nullable=False),
        sa.Column("limit", sa.Integer, nullable=False),
        sa.Column("probe_at", sa.BigInteger),
        sa.Column("released_at", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "worker_id", name="pk_destinations"),
    )
