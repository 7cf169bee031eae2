"""
Store the files of artifact versions: blobs, their uploads, manifests with one row for each file, pending versions.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import json
import secrets

import sqlalchemy as sa
from alembic import op

revision = "14"
down_revision = "13"

_ID = sa.String(40)


def _sorted_text(chars: int) -> sa.String:
    return sa.String(chars).with_variant(sa.String(chars, collation="C"), "postgresql")


def upgrade() -> None:
    connection = op.get_bind()
    old = connection.execute(sa.text("SELECT artifact_version_id, entries FROM manifests")).all()
    op.drop_table("manifests")
    op.create_table(
        "manifests",
        sa.Column("id", _ID, nullable=False),
        sa.Column("file_count", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("is_stored", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_manifests"),
    )
    op.create_table(
        "manifest_entries",
        sa.Column("manifest_id", _ID, nullable=False),
        sa.Column("path", _sorted_text(1_024), nullable=False),
        sa.Column("digest", sa.String(200), nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("ref", sa.Text),
        sa.PrimaryKeyConstraint("manifest_id", "path", name="pk_manifest_entries"),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name="fk_manifest_entries_manifest_id"),
    )
    op.create_index("ix_manifest_entries_digest", "manifest_entries", ["digest"])
    op.execute(
        "ALTER TABLE artifact_versions ADD COLUMN manifest_id VARCHAR(40) "
        "CONSTRAINT fk_artifact_versions_manifest_id REFERENCES manifests (id)"
    )
    op.create_index("ix_artifact_versions_manifest_id", "artifact_versions", ["manifest_id"])
    for version_id, entries in old:
        _copy_manifest(connection, version_id, json.loads(entries))
    op.create_table(
        "pending_versions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("manifest_id", _ID, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pending_versions"),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name="fk_pending_versions_manifest_id"),
    )
    op.create_index("ix_pending_versions_updated_at", "pending_versions", ["updated_at"])
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blobs"),
    )
    op.create_index("ix_blobs_used_at", "blobs", ["used_at"])
    op.create_table(
        "blob_uploads",
        sa.Column("id", _ID, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_blob_uploads"),
    )
    op.create_index("ix_blob_uploads_digest", "blob_uploads", ["digest"])
    op.create_index("ix_blob_uploads_updated_at", "blob_uploads", ["updated_at"])
    op.create_table(
        "blob_parts",
        sa.Column("upload_id", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "number", name="pk_blob_parts"),
        sa.ForeignKeyConstraint(["upload_id"], ["blob_uploads.id"], name="fk_blob_parts_upload_id", ondelete="CASCADE"),
    )


def _copy_manifest(connection: sa.Connection, version_id: str, entries: dict[str, str]) -> None:
    manifest_id = f"man_{secrets.token_hex(13)}"
    connection.execute(
        sa.text("INSERT INTO manifests (id, file_count, size, is_stored) VALUES (:id, :count, NULL, :stored)"),
        {"id": manifest_id, "count": len(entries), "stored": False},
    )
    if entries:
        connection.execute(
            sa.text("INSERT INTO manifest_entries (manifest_id, path, digest) VALUES (:manifest_id, :path, :digest)"),
            [{"manifest_id": manifest_id, "path": path, "digest": digest} for path, digest in entries.items()],
        )
    connection.execute(
        sa.text("UPDATE artifact_versions SET manifest_id = :manifest_id WHERE id = :id"),
        {"manifest_id": manifest_id, "id": version_id},
    )
