"""
Give collections, projects, artifacts, versions and links ids, so that names can change.

Collections also get metadata, links a stage, and registries the automations that may move protected aliases.
Deleted collections, whose rows were kept for their version numbers, are removed.

The migration does not use `schema.py`, because that module changes and this migration must not.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "10"
down_revision = "9"

_BATCH_ROWS = 1_000
_ID = sa.String(40)
_NAME = sa.String(128).with_variant(sa.String(128, collation="C"), "postgresql")
# A table comes before the tables that it refers to.
_OLD_TABLES = (
    "collection_aliases",
    "versions",
    "manifests",
    "artifact_aliases",
    "artifact_versions",
    "artifacts",
    "projects",
    "collections",
)


def upgrade() -> None:
    op.add_column("registries", sa.Column("allowed_automations", sa.Text, nullable=False, server_default="[]"))
    old = {name: _rows(name) for name in _OLD_TABLES}
    for name in _OLD_TABLES:
        op.drop_table(name)
    _create_tables()

    collections = {
        (row["registry"], row["name"]): {**row, "id": _new_id("col"), "metadata": "{}"}
        for row in old["collections"]
        if not row.pop("deleted")
    }
    projects = {row["name"]: _new_id("prj") for row in old["projects"]}
    artifacts = {(row["project"], row["name"]): _new_id("art") for row in old["artifacts"]}
    artifact_versions = {_source(row, "number"): _new_id("ver") for row in old["artifact_versions"]}

    def collection_id(row: dict[str, Any]) -> str:
        return str(collections[row["registry"], row["collection"]]["id"])

    _insert("collections", collections.values())
    _insert("projects", ({"id": project_id, "name": name} for name, project_id in projects.items()))
    _insert(
        "artifacts",
        (
            {
                "id": artifacts[row["project"], row["name"]],
                "project_id": projects[row["project"]],
                **_without(row, "project"),
            }
            for row in old["artifacts"]
        ),
    )
    _insert(
        "artifact_versions",
        (
            {
                "id": artifact_versions[_source(row, "number")],
                "artifact_id": artifacts[row["project"], row["artifact"]],
                **_without(row, "project", "artifact"),
            }
            for row in old["artifact_versions"]
        ),
    )
    _insert(
        "manifests",
        (
            {"artifact_version_id": artifact_versions[_source(row, "number")], "entries": row["entries"]}
            for row in old["manifests"]
        ),
    )
    _insert(
        "artifact_aliases",
        (
            {"artifact_id": artifacts[row["project"], row["artifact"]], **_without(row, "project", "artifact")}
            for row in old["artifact_aliases"]
        ),
    )
    _insert(
        "versions",
        (
            {
                "id": _new_id("lnk"),
                "collection_id": collection_id(row),
                "artifact_version_id": artifact_versions[_source(row, "artifact_number")],
                "stage": "None",
                **_without(row, "registry", "collection", "project", "artifact", "artifact_number"),
            }
            for row in old["versions"]
        ),
    )
    _insert(
        "collection_aliases",
        (
            {"collection_id": collection_id(row), **_without(row, "registry", "collection")}
            for row in old["collection_aliases"]
        ),
    )


def _rows(table_name: str) -> list[dict[str, Any]]:
    statement = sa.text(f"SELECT * FROM {table_name}")  # noqa: S608 - a constant
    return [dict(row._mapping) for row in op.get_bind().execute(statement)]  # noqa: SLF001 - SQLAlchemy's public name


def _source(row: dict[str, Any], number: str) -> tuple[str, str, int]:
    return (row["project"], row["artifact"], row[number])


def _without(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in columns}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(13)}"


def _insert(table_name: str, rows: Iterable[dict[str, Any]]) -> None:
    listed = list(rows)
    if not listed:
        return
    table = sa.table(table_name, *(sa.column(column) for column in listed[0]))
    for start in range(0, len(listed), _BATCH_ROWS):
        op.get_bind().execute(sa.insert(table), listed[start : start + _BATCH_ROWS])


def _create_tables() -> None:
    op.create_table(
        "collections",
        sa.Column("id", _ID, nullable=False),
        sa.Column("registry", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("artifact_type", _NAME, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_collections"),
        sa.ForeignKeyConstraint(["registry"], ["registries.name"], name="fk_collections_registry"),
        sa.UniqueConstraint("registry", "name", name="uq_collections_registry_name"),
    )
    op.create_table(
        "projects",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("artifact_type", _NAME, nullable=False),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_artifacts_project_id"),
        sa.UniqueConstraint("project_id", "name", name="uq_artifacts_project_id_name"),
    )
    op.create_table(
        "artifact_versions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("artifact_id", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(200), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artifact_versions"),
        sa.ForeignKeyConstraint(["artifact_id"], ["artifacts.id"], name="fk_artifact_versions_artifact_id"),
        sa.UniqueConstraint("artifact_id", "number", name="uq_artifact_versions_artifact_id_number"),
    )
    op.create_table(
        "manifests",
        sa.Column("artifact_version_id", _ID, nullable=False),
        sa.Column("entries", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("artifact_version_id", name="pk_manifests"),
        sa.ForeignKeyConstraint(
            ["artifact_version_id"], ["artifact_versions.id"], name="fk_manifests_artifact_version_id"
        ),
    )
    op.create_table(
        "artifact_aliases",
        sa.Column("artifact_id", _ID, nullable=False),
        sa.Column("alias", _NAME, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("artifact_id", "alias", name="pk_artifact_aliases"),
        sa.ForeignKeyConstraint(
            ["artifact_id", "number"],
            ["artifact_versions.artifact_id", "artifact_versions.number"],
            name="fk_artifact_aliases_artifact_id_number",
        ),
    )
    op.create_index("ix_artifact_aliases_number", "artifact_aliases", ["artifact_id", "number"])
    op.create_table(
        "versions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("collection_id", _ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("artifact_version_id", _ID, nullable=False),
        sa.Column("stage", sa.String(10), nullable=False),
        sa.Column("linked_at", sa.BigInteger, nullable=False),
        sa.Column("linked_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["collection_id"], ["collections.id"], name="fk_versions_collection_id"),
        sa.ForeignKeyConstraint(
            ["artifact_version_id"], ["artifact_versions.id"], name="fk_versions_artifact_version_id"
        ),
        sa.UniqueConstraint("collection_id", "number", name="uq_versions_collection_id_number"),
        sa.UniqueConstraint(
            "artifact_version_id", "collection_id", name="uq_versions_artifact_version_id_collection_id"
        ),
    )
    op.create_table(
        "collection_aliases",
        sa.Column("collection_id", _ID, nullable=False),
        sa.Column("alias", _NAME, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "alias", name="pk_collection_aliases"),
        sa.ForeignKeyConstraint(
            ["collection_id", "number"],
            ["versions.collection_id", "versions.number"],
            name="fk_collection_aliases_collection_id_number",
        ),
    )
    op.create_index("ix_collection_aliases_number", "collection_aliases", ["collection_id", "number"])
