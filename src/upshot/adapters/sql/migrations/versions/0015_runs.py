"""
Store runs, and which artifact versions they used and logged.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "15"
down_revision = "14"

_ID = sa.String(40)
_NAME = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("job_type", sa.Text),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("run_group", sa.Text),
        sa.Column("entity", sa.Text),
        sa.Column("info", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("heartbeat_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("project_id", "run_id", name="uq_runs_project_id_run_id"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_runs_project_id"),
    )
    op.create_index("ix_runs_project_id_id", "runs", ["project_id", "id"])
    op.execute(
        "ALTER TABLE artifact_versions ADD COLUMN run_id VARCHAR(40) "
        "CONSTRAINT fk_artifact_versions_run_id REFERENCES runs (id)"
    )
    for name in ("run_inputs", "run_outputs"):
        op.create_table(
            name,
            sa.Column("run_id", _ID, nullable=False),
            sa.Column("artifact_version_id", _ID, nullable=False),
            sa.PrimaryKeyConstraint("run_id", "artifact_version_id", name=f"pk_{name}"),
            sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=f"fk_{name}_run_id"),
            sa.ForeignKeyConstraint(
                ["artifact_version_id"], ["artifact_versions.id"], name=f"fk_{name}_artifact_version_id"
            ),
        )
        op.create_index(f"ix_{name}_artifact_version_id_run_id", name, ["artifact_version_id", "run_id"])
