"""
Container jobs, their logs, the installation that they belong to, and what workers say of themselves for their sake.

Spelled out rather than read from `schema.py`, as in `0001_first.py`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _sorted_text(chars: int) -> sa.String:
    """Text that sorts by code point on every database."""
    return sa.String(chars).with_variant(sa.String(chars, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _sorted_text(40), nullable=False),
        sa.Column("execution", sa.String(40), nullable=False),
        sa.Column("automation", sa.String(128), nullable=False),
        sa.Column("step", sa.String(128), nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("concurrency", sa.Integer),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("cause", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("machine", sa.Text),
        sa.Column("engine", sa.Text),
        sa.Column("lease_owner", sa.String(80)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("stop_asked_at", sa.BigInteger),
        sa.Column("stop_asked_by", sa.Text),
        sa.Column("log_number", sa.Integer, nullable=False),
        sa.Column("log_bytes", sa.BigInteger, nullable=False),
        sa.Column("log_position", sa.Text),
        sa.Column("form", sa.Text, nullable=False),
        sa.Column("outputs", sa.Text),
        sa.Column("log_tail", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["execution"], ["executions.id"], name="fk_jobs_execution"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_automation_id", "jobs", ["automation", "id"])
    op.create_index("ix_jobs_execution", "jobs", ["execution"])
    op.create_index("ix_jobs_queue_id", "jobs", ["queue", "id"])
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    _create_partial_index("ix_jobs_finished", ["finished_at"], where="finished_at IS NOT NULL")
    _create_partial_index("ix_jobs_leased", ["lease_until"], where="lease_until IS NOT NULL")
    _create_partial_index("ix_jobs_queued", ["queue", "backend", "rank", "id"], where="state = 'queued'")
    _create_partial_index("ix_jobs_to_be_stopped", ["id"], where="stop_asked_at IS NOT NULL AND finished_at IS NULL")
    op.create_table(
        "job_logs",
        sa.Column("job", _sorted_text(40), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name="fk_job_logs_job"),
        sa.PrimaryKeyConstraint("job", "number", name="pk_job_logs"),
    )
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_installation"),
    )
    # With defaults, so that a worker that knows only the form before can go on beating.
    op.add_column("workers", sa.Column("machine", sa.Text, nullable=False, server_default=""))
    op.add_column("workers", sa.Column("queues", sa.Text, nullable=False, server_default="[]"))
    op.add_column("workers", sa.Column("engines", sa.Text, nullable=False, server_default="{}"))


def _create_partial_index(name: str, columns: list[str], *, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "jobs", columns, sqlite_where=condition, postgresql_where=condition)
