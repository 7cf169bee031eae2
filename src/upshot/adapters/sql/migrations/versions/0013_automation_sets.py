"""Create the tables of the sets of automations that workers hold."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "13"
down_revision = "12"


def upgrade() -> None:
    op.create_table(
        "automation_sets",
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_automation_sets"),
        sa.UniqueConstraint("number", name="uq_automation_sets_number"),
    )
    op.create_table(
        "automation_set_holdings",
        sa.Column("worker_id", sa.String(80), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("quality", sa.String(12), nullable=False),
        sa.Column("held_at", sa.BigInteger, nullable=False),
        sa.Column("matches", sa.Boolean, nullable=False),
        sa.Column("difference", sa.Text),
        sa.Column("has_ended", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_automation_set_holdings"),
    )
