"""
Store comments on artifact versions and runs.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20"
down_revision = "19"

_ID = sa.String(40)


def upgrade() -> None:
    op.create_table(
        "comments",
        sa.Column("id", _ID, nullable=False),
        sa.Column("artifact_version_id", _ID),
        sa.Column("run_id", _ID),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("mentions", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("author_kind", sa.String(10), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("edited_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_comments"),
        sa.ForeignKeyConstraint(
            ["artifact_version_id"], ["artifact_versions.id"], name="fk_comments_artifact_version_id"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_comments_run_id"),
    )
    op.create_index("ix_comments_artifact_version_id_id", "comments", ["artifact_version_id", "id"])
    op.create_index("ix_comments_run_id_id", "comments", ["run_id", "id"])
