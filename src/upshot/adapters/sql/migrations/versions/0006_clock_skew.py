"""How far the clock of a worker's machine is ahead of the database's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    op.add_column("workers", sa.Column("clock_skew_seconds", sa.Double, nullable=False, server_default="0"))
