"""Count the attempts of steps, for metrics."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "11"
down_revision = "10"


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(300), nullable=False),
        sa.Column("result", sa.String(16), nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        *(sa.Column(f"bucket_{index}", sa.BigInteger, nullable=False) for index in range(8)),
        sa.PrimaryKeyConstraint("action", "destination", "result", name="pk_deliveries"),
    )
