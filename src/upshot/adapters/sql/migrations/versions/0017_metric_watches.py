"""
Store what automations watch metrics for.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "17"
down_revision = "16"


def upgrade() -> None:
    op.add_column("active_automations", sa.Column("watches", sa.Text))
    op.create_table(
        "metric_conditions",
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("automation", sa.String(128), nullable=False),
        sa.Column("condition_id", sa.String(16), nullable=False),
        sa.Column("is_true", sa.Boolean, nullable=False),
        sa.Column("recent", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "automation", "condition_id", name="pk_metric_conditions"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_metric_conditions_run_id"),
    )
