"""Count what one event leads to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table(
        "root_events",
        sa.Column("event_id", sa.String(40), nullable=False),
        sa.Column("executions", sa.Integer, nullable=False),
        sa.Column("events", sa.Integer, nullable=False),
        sa.Column("warning", sa.Text),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name="fk_root_events_event_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event_id", name="pk_root_events"),
    )
