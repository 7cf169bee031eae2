"""
Store what runs log: metrics and files; and how a run's process writes and ends it.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "16"
down_revision = "15"

_ID = sa.String(40)


def _sorted(chars: int) -> sa.String:
    return sa.String(chars).with_variant(sa.String(chars, collation="C"), "postgresql")


def upgrade() -> None:
    for column in (
        sa.Column("exit_code", sa.Integer),
        sa.Column("reason", sa.Text),
        sa.Column("is_lost", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("stop_requested_at", sa.BigInteger),
        sa.Column("stop_requested_by", sa.Text),
        sa.Column("session", sa.String(80)),
        sa.Column("next_sequence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("last_step", sa.BigInteger),
        sa.Column("next_entry", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unpacked_entries", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unpacked_points", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unpacked_keys", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("runs", column)
    for name, condition in (("running", "state = 'running'"), ("unpacked", "unpacked_entries > 0")):
        where = sa.text(condition)
        op.create_index(f"ix_runs_{name}", "runs", ["id"], sqlite_where=where, postgresql_where=where)
    op.create_index("ix_artifact_versions_run_id", "artifact_versions", ["run_id"])
    op.create_table(
        "deleted_runs",
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("run_id", _sorted(128), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "run_id", name="pk_deleted_runs"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_deleted_runs_project_id"),
    )
    op.create_table(
        "run_log_entries",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("keys", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_run_log_entries"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_log_entries_run_id"),
    )
    op.create_table(
        "metric_chunks",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("key", _sorted(512), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("first_step", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("nan_count", sa.Integer, nullable=False),
        sa.Column("minimum", sa.Double),
        sa.Column("maximum", sa.Double),
        sa.Column("last", sa.Text),
        sa.Column("steps", sa.LargeBinary, nullable=False),
        sa.Column("times", sa.LargeBinary, nullable=False),
        sa.Column("values", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key", "number", name="pk_metric_chunks"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_metric_chunks_run_id"),
    )
    op.create_table(
        "run_files",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("path", _sorted(1_024), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "path", name="pk_run_files"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_files_run_id"),
    )
    op.create_index("ix_run_files_digest", "run_files", ["digest"])
