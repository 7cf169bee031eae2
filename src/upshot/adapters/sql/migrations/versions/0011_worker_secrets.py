"""Names of the secrets that a worker has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "11"
down_revision = "10"


def upgrade() -> None:
    op.add_column("workers", sa.Column("secrets", sa.Text))
