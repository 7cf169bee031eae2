"""Projects: the artifacts that are logged in them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import Query
from starlette.responses import Response

from upshot.domain.reference import Reference, check_name
from upshot.domain.registry import ArtifactVersion, Change
from upshot.web.auth import API
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.requests import AliasTarget, NewArtifactVersion, PageQuery, VersionChange
from upshot.web.schemas.responses import (
    ArtifactForm,
    ArtifactVersionForm,
    MutationResult,
    PageForm,
    artifact_form,
    artifact_version_form,
    effect_form,
    json_response,
    page_form,
)

router = make_router("artifacts")

_ALL = "/projects/{project}/artifacts"
_VERSIONS = _ALL + "/{artifact}/versions"
_ONE = _VERSIONS + "/{version}"
_ALIAS = _ALL + "/{artifact}/aliases/{alias}"


def _changed(change: Change[ArtifactVersion]) -> ArtifactVersionForm:
    return {**artifact_version_form(change.value), **effect_form(change)}


def _reference(project: str, artifact: str, version: str) -> str:
    return str(
        Reference(check_name(project, "project"), check_name(artifact, "artifact"), check_name(version, "version"))
    )


@router.post(
    _ALL,
    status_code=201,
    responses={
        200: {"model": ArtifactVersionForm, "description": "The content is that of the current `latest`."},
        201: {"model": ArtifactVersionForm},
        **responses(409),
    },
)
def log_artifact(project: str, body: NewArtifactVersion, house: Deps, by: CallerDep) -> Response:
    """Log an artifact version; makes project and artifact if there are none."""
    change = house.registry.log_artifact(
        project,
        body.name,
        body.type,
        metadata=body.metadata,
        digest=body.digest,
        manifest=body.manifest,
        description=body.description,
        aliases=body.aliases,
        **by,
    )
    place = f"{API}/projects/{quote(project, safe='')}/artifacts/{quote(body.name, safe='')}"
    return json_response(
        _changed(change), 201 if change.created else 200, location=f"{place}/versions/{change.value.version}"
    )


@router.get(_ALL, responses={200: {"model": PageForm[ArtifactForm]}, **responses(404)})
def list_artifacts(project: str, house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Artifacts of a project, by name."""
    page = house.registry.artifacts(project, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, artifact_form))


@router.get(_VERSIONS, responses={200: {"model": PageForm[ArtifactVersionForm]}, **responses(404)})
def list_artifact_versions(project: str, artifact: str, house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Versions of an artifact, the newest first, without manifests."""
    page = house.registry.artifact_versions(project, artifact, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, artifact_version_form))


@router.get(_ONE, responses={200: {"model": ArtifactVersionForm}, **responses(404)})
def show_artifact_version(project: str, artifact: str, version: str, house: Deps) -> Response:
    """The artifact version that `v3` or an alias in the project means."""
    return json_response(artifact_version_form(house.registry.artifact_version(_reference(project, artifact, version))))


@router.patch(_ONE, responses={200: {"model": ArtifactVersionForm}, **responses(404)})
def update_artifact_version(
    *, project: str, artifact: str, version: str, body: VersionChange, house: Deps, by: CallerDep
) -> Response:
    """Change metadata (a JSON merge patch) and description; all links to the artifact version see that."""
    change = house.registry.update_artifact_version(
        project, artifact, version, metadata=body.new_metadata, description=body.new_description, **by
    )
    return json_response(_changed(change))


@router.delete(_ONE, responses={200: {"model": MutationResult}, **responses(404, 409)})
def delete_artifact_version(project: str, artifact: str, version: str, house: Deps, by: CallerDep) -> Response:
    """Delete an artifact version and every link to it, unless a protected alias reaches it."""
    reference = _reference(project, artifact, version)
    return json_response(effect_form(house.registry.delete_artifact_version(reference, **by)))


@router.put(_ONE + "/tags/{tag}", responses={200: {"model": ArtifactVersionForm}, **responses(404)})
def tag_artifact_version(
    *, project: str, artifact: str, version: str, tag: str, house: Deps, by: CallerDep
) -> Response:
    """Tag an artifact version; all links to it have the tag."""
    return json_response(_changed(house.registry.add_artifact_tag(project, artifact, tag, version, **by)))


@router.delete(_ONE + "/tags/{tag}", responses={200: {"model": ArtifactVersionForm}, **responses(404)})
def untag_artifact_version(
    *, project: str, artifact: str, version: str, tag: str, house: Deps, by: CallerDep
) -> Response:
    """Take a tag from an artifact version."""
    return json_response(_changed(house.registry.remove_artifact_tag(project, artifact, tag, version, **by)))


@router.put(_ALIAS, responses={200: {"model": ArtifactVersionForm}, **responses(404)})
def add_artifact_alias(
    *, project: str, artifact: str, alias: str, body: AliasTarget, house: Deps, by: CallerDep
) -> Response:
    """Give the alias in the project to an artifact version, whoever held it; collections have their own."""
    return json_response(_changed(house.registry.add_artifact_alias(project, artifact, alias, body.version, **by)))


@router.delete(_ALIAS, responses={200: {"model": MutationResult}, **responses(404)})
def remove_artifact_alias(project: str, artifact: str, alias: str, house: Deps, by: CallerDep) -> Response:
    """Take the alias in the project from its holder."""
    return json_response(effect_form(house.registry.remove_artifact_alias(project, artifact, alias, **by)))
