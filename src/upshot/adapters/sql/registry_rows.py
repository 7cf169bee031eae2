"""Records of the registry from rows of SQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Row

from upshot.adapters.sql import runs as runs_sql
from upshot.domain.manifest import ManifestSummary
from upshot.domain.registry import Artifact, ArtifactVersion, Collection, RegistrySettings, Version
from upshot.domain.stage import Stage


def _split_aliases(joined: str | None) -> dict[str, str]:
    """Return the versions by alias from the result of `_joined_aliases`."""
    pairs = (pair.split(":") for pair in sorted(joined.split("/"))) if joined else ()
    return {alias: f"v{number}" for alias, number in pairs}


def registry_from_row(row: Row[Any]) -> RegistrySettings:
    """Return a registry."""
    return RegistrySettings(row.name, tuple(row.protected_aliases), tuple(row.allowed_automations))


def collection_from_row(row: Row[Any]) -> Collection:
    """Return a collection."""
    return Collection(
        id=row.id,
        registry=row.registry,
        name=row.name,
        artifact_type=row.artifact_type,
        description=row.description,
        metadata=row.metadata,
        tags=tuple(row.tags),
        aliases=_split_aliases(row.aliases),
        created_at=row.created_at,
        created_by=row.created_by,
        ttl_seconds=row.ttl_seconds,
    )


def artifact_from_row(row: Row[Any]) -> Artifact:
    """Return an artifact."""
    return Artifact(row.id, row.project, row.name, row.artifact_type, _split_aliases(row.aliases), row.ttl_seconds)


def artifact_version_from_row(row: Row[Any], artifact: Artifact) -> ArtifactVersion:
    """Return a version of the artifact."""
    return ArtifactVersion(
        id=row.id,
        artifact_id=artifact.id,
        project=artifact.project,
        artifact_name=artifact.name,
        artifact_type=artifact.artifact_type,
        number=row.number,
        aliases=artifact.aliases_of(f"v{row.number}"),
        **_artifact_version_values(row),
    )


def _artifact_version_values(row: Row[Any]) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "metadata": row.metadata,
        "description": row.description,
        "manifest": (
            ManifestSummary(row.manifest_id, row.file_count, row.size, row.is_stored) if row.manifest_id else None
        ),
        "tags": tuple(row.tags),
        "created_at": row.created_at,
        "created_by": row.created_by,
        "run": runs_sql.from_run_columns(row),
        "ttl_seconds": row.ttl_seconds,
    }


def artifact_version_with_names_from_row(row: Row[Any]) -> ArtifactVersion:
    """Return an artifact version from a row that also has the names of its artifact and project."""
    return _source_from_row(row, row.id, row.number)


def _source_from_row(row: Row[Any], version_id: str, number: int) -> ArtifactVersion:
    return ArtifactVersion(
        id=version_id,
        artifact_id=row.artifact_id,
        project=row.project,
        artifact_name=row.artifact,
        artifact_type=row.artifact_type,
        number=number,
        aliases=tuple(sorted(row.aliases.split("/"))) if row.aliases else (),
        **_artifact_version_values(row),
    )


def version_from_row(row: Row[Any], collection: Collection) -> Version:
    """Return a version of the collection."""
    return Version(
        id=row.id,
        collection_id=collection.id,
        registry=collection.registry,
        collection=collection.name,
        number=row.number,
        artifact_version=_source_from_row(row, row.artifact_version_id, row.artifact_number),
        aliases=collection.aliases_of(f"v{row.number}"),
        stage=Stage(row.stage),
        linked_at=row.linked_at,
        linked_by=row.linked_by,
    )
