"""An artifact of a project."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from upshot.domain.registry import Artifact, ArtifactVersion
from upshot.resources.urls import api_url


class ArtifactJson(TypedDict):
    """A series of artifact versions that are logged under one name in a project."""

    id: str
    project: str
    name: str
    reference: str  #: `project/artifact`
    artifact_type: str
    url: str | None  #: of its versions in the REST API; null if the server's public address is unknown


class ArtifactDetail(ArtifactJson):
    """An artifact with its aliases; events carry the aliases with the version."""

    aliases: dict[str, str]  #: version by alias in the project, such as `{"latest": "v2"}`
    ttl_seconds: int | None  #: after which versions without their own expire; null: without limit


def artifact_json(artifact: Artifact | ArtifactVersion, base_url: str | None) -> ArtifactJson:
    """Return the JSON object of an artifact, which may be given as one of its versions."""
    if isinstance(artifact, ArtifactVersion):
        artifact_id, name = artifact.artifact_id, artifact.artifact_name
    else:
        artifact_id, name = artifact.id, artifact.name
    return {
        "id": artifact_id,
        "project": artifact.project,
        "name": name,
        "reference": f"{artifact.project}/{name}",
        "artifact_type": artifact.artifact_type,
        "url": api_url(base_url, "projects", artifact.project, "artifacts", name, "versions"),
    }


def artifact_detail(artifact: Artifact, base_url: str | None) -> ArtifactDetail:
    """Return the JSON object of an artifact with its aliases."""
    return {**artifact_json(artifact, base_url), "aliases": dict(artifact.aliases), "ttl_seconds": artifact.ttl_seconds}
