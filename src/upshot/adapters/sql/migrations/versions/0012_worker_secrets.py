"""Store the names of the secrets that a worker has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "12"
down_revision = "11"


def upgrade() -> None:
    op.add_column("workers", sa.Column("secrets", sa.Text))
