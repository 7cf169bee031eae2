"""Create the tables of automations that answer events and of automation files with errors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "9"
down_revision = "8"


def upgrade() -> None:
    op.create_table(
        "active_automations",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("revision_id", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_active_automations"),
    )
    op.create_table(
        "file_faults",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("line", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("error_count", sa.Integer, nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_file_faults"),
    )
    op.create_index("ix_file_faults_until", "file_faults", ["until"])
