"""A version: an artifact version that is linked into a collection, or one in its project."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.clock import format_time
from upshot.domain.registry import ArtifactVersion, Version
from upshot.resources.urls import api_url


class VersionJson(TypedDict):
    """
    A version of a collection, or a version of an artifact in its project.

    Tags, description, metadata and digest belong to the artifact version, so all links to it show the same.
    """

    id: str  #: of the link, or of the artifact version in its project
    name: str  #: `v3`
    number: int  #: counted from 0
    reference: str  #: `registry/collection:v3`, or `project/artifact:v0` in its project
    registry: str | None  #: null in its project
    collection: str | None  #: null in its project
    artifact: str  #: reference of the artifact version: `project/artifact:v0`
    artifact_version_id: str
    artifact_name: str
    artifact_version: str  #: `v0`
    artifact_type: str
    project: str
    aliases: list[str]  #: in the collection, or in the project; sorted
    stage: str | None  #: None, Staging, Production or Archived, as in MLflow; null in its project
    tags: list[str]  #: sorted
    description: str
    metadata: dict[str, Any]
    digest: str
    file_count: int | None  #: null if only a digest was logged
    size: int | None  #: bytes of all files; null if the size of one is unknown
    is_stored: bool  #: the files can be downloaded from here
    run: str | None  #: `project/id` of the run that logged it
    ttl_seconds: int | None  #: after which it expires; 0: never; null: that of its artifact and collections
    linked_at: str | None  #: null in its project
    linked_by: str | None  #: null in its project
    created_at: str
    created_by: str
    url: str | None  #: in the REST API; null if the server's public address is unknown


def version_json(version: Version | ArtifactVersion, base_url: str | None) -> VersionJson:
    """Return the JSON object of a version, which is linked (`Version`) or in its project (`ArtifactVersion`)."""
    artifact = version.artifact_version
    if isinstance(version, Version):
        linked = version
        path = ("registries", version.registry, "collections", version.collection, "versions", version.name)
    else:
        linked = None
        path = ("projects", version.project, "artifacts", version.artifact_name, "versions", version.name)
    return {
        "id": version.id,
        "name": version.name,
        "number": version.number,
        "reference": version.reference,
        "registry": linked.registry if linked else None,
        "collection": linked.collection if linked else None,
        "artifact": artifact.reference,
        "artifact_version_id": artifact.id,
        "artifact_name": artifact.artifact_name,
        "artifact_version": artifact.name,
        "artifact_type": artifact.artifact_type,
        "project": artifact.project,
        "aliases": list(version.aliases),
        "stage": linked.stage.value if linked else None,
        "tags": list(artifact.tags),
        "description": artifact.description,
        "metadata": dict(artifact.metadata),
        "digest": artifact.digest,
        "file_count": artifact.manifest.file_count if artifact.manifest else None,
        "size": artifact.manifest.size if artifact.manifest else None,
        "is_stored": artifact.manifest is not None and artifact.manifest.is_stored,
        "run": artifact.run.reference if artifact.run else None,
        "ttl_seconds": artifact.ttl_seconds,
        "linked_at": format_time(linked.linked_at) if linked else None,
        "linked_by": linked.linked_by if linked else None,
        "created_at": format_time(artifact.created_at),
        "created_by": artifact.created_by,
        "url": api_url(base_url, *path),
    }
