"""
Create the tables of the first release.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def _sorted_text(chars: int) -> sa.String:
    """Return a type for text that sorts by code point on every database."""
    return sa.String(chars).with_variant(sa.String(chars, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("name", sa.String(128)),
        sa.Column("subject", _sorted_text(300), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("mutation_id", sa.String(40), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("matched_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_kind_id", "events", ["kind", "id"])
    op.create_index("ix_events_mutation_id", "events", ["mutation_id"])
    op.create_index("ix_events_subject_id", "events", ["subject", "id"])
    op.create_index(
        "ix_events_unmatched",
        "events",
        ["published_at"],
        sqlite_where=sa.text("matched_at IS NULL"),
        postgresql_where=sa.text("matched_at IS NULL"),
    )
    op.create_table(
        "history",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("mutation_id", sa.String(40), nullable=False),
        sa.Column("registry", _sorted_text(128)),
        sa.Column("collection", _sorted_text(128)),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("after", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_history"),
    )
    op.create_index("ix_history_registry_collection_id", "history", ["registry", "collection", "id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("reserved_at", sa.BigInteger, nullable=False),
        sa.Column("call_id", sa.String(40)),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_first_at", "idempotency_keys", ["first_at"])
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_installation"),
    )
    op.create_table(
        "projects",
        sa.Column("name", _sorted_text(128), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    op.create_table(
        "receipts",
        sa.Column("execution_id", sa.String(40), nullable=False),
        sa.Column("step_id", sa.String(128), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("execution_id", "step_id", "attempt", name="pk_receipts"),
    )
    op.create_table(
        "registries",
        sa.Column("name", _sorted_text(128), nullable=False),
        sa.Column("protected_aliases", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registries"),
    )
    op.create_table(
        "revisions",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("revision_id", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("body_files", sa.Text, nullable=False),
        sa.Column("saved_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "revision_id", name="pk_revisions"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("in_progress", sa.Integer, nullable=False),
        sa.Column("stream_read_at", sa.BigInteger),
        sa.Column("automations", sa.Integer, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("queues", sa.Text, nullable=False),
        sa.Column("engines", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "artifacts",
        sa.Column("project", _sorted_text(128), nullable=False),
        sa.Column("name", _sorted_text(128), nullable=False),
        sa.Column("artifact_type", _sorted_text(128), nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_artifacts_project"),
        sa.PrimaryKeyConstraint("project", "name", name="pk_artifacts"),
    )
    op.create_table(
        "collections",
        sa.Column("registry", _sorted_text(128), nullable=False),
        sa.Column("name", _sorted_text(128), nullable=False),
        sa.Column("artifact_type", _sorted_text(128), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["registry"], ["registries.name"], name="fk_collections_registry"),
        sa.PrimaryKeyConstraint("registry", "name", name="pk_collections"),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("automation", sa.String(128), nullable=False),
        sa.Column("revision_id", sa.String(16), nullable=False),
        sa.Column("event_id", sa.String(40), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("lease_owner_id", sa.String(80)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("notified_at", sa.BigInteger),
        sa.Column("steps", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name="fk_executions_event_id"),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
    )
    op.create_index("ix_executions_automation_id", "executions", ["automation", "id"])
    op.create_index(
        "ix_executions_due",
        "executions",
        ["due_at"],
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index("ix_executions_event_id", "executions", ["event_id"])
    op.create_index(
        "ix_executions_leased",
        "executions",
        ["lease_until"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "artifact_versions",
        sa.Column("project", _sorted_text(128), nullable=False),
        sa.Column("artifact", _sorted_text(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(200), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "artifact"],
            ["artifacts.project", "artifacts.name"],
            name="fk_artifact_versions_project_artifact",
        ),
        sa.PrimaryKeyConstraint("project", "artifact", "number", name="pk_artifact_versions"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", _sorted_text(40), nullable=False),
        sa.Column("execution_id", sa.String(40), nullable=False),
        sa.Column("automation", sa.String(128), nullable=False),
        sa.Column("step_id", sa.String(128), nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("concurrency", sa.Integer),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("failure", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("machine", sa.Text),
        sa.Column("engine_id", sa.Text),
        sa.Column("lease_owner_id", sa.String(80)),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("stop_requested_at", sa.BigInteger),
        sa.Column("stop_requested_by", sa.Text),
        sa.Column("log_number", sa.Integer, nullable=False),
        sa.Column("log_bytes", sa.BigInteger, nullable=False),
        sa.Column("log_position", sa.Text),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("outputs", sa.Text),
        sa.Column("log_tail", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name="fk_jobs_execution_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_automation_id", "jobs", ["automation", "id"])
    op.create_index("ix_jobs_execution_id", "jobs", ["execution_id"])
    op.create_index(
        "ix_jobs_finished",
        "jobs",
        ["finished_at"],
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_leased",
        "jobs",
        ["lease_until"],
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.create_index("ix_jobs_queue_id", "jobs", ["queue", "id"])
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["queue", "backend", "rank", "id"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_index(
        "ix_jobs_to_be_stopped",
        "jobs",
        ["id"],
        sqlite_where=sa.text("stop_requested_at IS NOT NULL AND finished_at IS NULL"),
        postgresql_where=sa.text("stop_requested_at IS NOT NULL AND finished_at IS NULL"),
    )
    op.create_table(
        "artifact_aliases",
        sa.Column("project", _sorted_text(128), nullable=False),
        sa.Column("artifact", _sorted_text(128), nullable=False),
        sa.Column("alias", _sorted_text(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "artifact", "number"],
            ["artifact_versions.project", "artifact_versions.artifact", "artifact_versions.number"],
            name="fk_artifact_aliases_project_artifact_number",
        ),
        sa.PrimaryKeyConstraint("project", "artifact", "alias", name="pk_artifact_aliases"),
    )
    op.create_index("ix_artifact_aliases_number", "artifact_aliases", ["project", "artifact", "number"])
    op.create_table(
        "job_logs",
        sa.Column("job_id", _sorted_text(40), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_logs_job_id"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_logs"),
    )
    op.create_table(
        "manifests",
        sa.Column("project", _sorted_text(128), nullable=False),
        sa.Column("artifact", _sorted_text(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("entries", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "artifact", "number"],
            ["artifact_versions.project", "artifact_versions.artifact", "artifact_versions.number"],
            name="fk_manifests_project_artifact_number",
        ),
        sa.PrimaryKeyConstraint("project", "artifact", "number", name="pk_manifests"),
    )
    op.create_table(
        "versions",
        sa.Column("registry", _sorted_text(128), nullable=False),
        sa.Column("collection", _sorted_text(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("project", _sorted_text(128), nullable=False),
        sa.Column("artifact", _sorted_text(128), nullable=False),
        sa.Column("artifact_number", sa.Integer, nullable=False),
        sa.Column("linked_at", sa.BigInteger, nullable=False),
        sa.Column("linked_by", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["project", "artifact", "artifact_number"],
            ["artifact_versions.project", "artifact_versions.artifact", "artifact_versions.number"],
            name="fk_versions_project_artifact_artifact_number",
        ),
        sa.ForeignKeyConstraint(
            ["registry", "collection"],
            ["collections.registry", "collections.name"],
            name="fk_versions_registry_collection",
        ),
        sa.PrimaryKeyConstraint("registry", "collection", "number", name="pk_versions"),
        sa.UniqueConstraint(
            "project", "artifact", "artifact_number", "registry", "collection", name="uq_versions_source"
        ),
    )
    op.create_table(
        "collection_aliases",
        sa.Column("registry", _sorted_text(128), nullable=False),
        sa.Column("collection", _sorted_text(128), nullable=False),
        sa.Column("alias", _sorted_text(128), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["registry", "collection", "number"],
            ["versions.registry", "versions.collection", "versions.number"],
            name="fk_collection_aliases_registry_collection_number",
        ),
        sa.PrimaryKeyConstraint("registry", "collection", "alias", name="pk_collection_aliases"),
    )
    op.create_index("ix_collection_aliases_number", "collection_aliases", ["registry", "collection", "number"])
