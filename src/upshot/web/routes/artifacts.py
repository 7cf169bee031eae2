"""Routes of the artifacts of a project."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from upshot.domain.reference import Reference, check_existing_name
from upshot.domain.registry import ArtifactVersion, Change
from upshot.ports.paging import Page
from upshot.registry.snapshots import metadata_changes
from upshot.resources.artifact import ArtifactDetail, artifact_detail
from upshot.resources.file import DiffJson, diff_json, file_json
from upshot.resources.urls import api_path
from upshot.resources.version import VersionJson, version_json
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.artifacts import (
    ArtifactChange,
    ArtifactPage,
    ChangedArtifactVersion,
    FilePage,
    FileQuery,
    LinksPage,
    LoggedArtifactVersion,
    NewArtifactVersion,
    NewName,
    ProjectJson,
    ProjectPage,
)
from upshot.web.schemas.registry_filters import ArtifactQuery, ArtifactVersionQuery
from upshot.web.schemas.requests import PageQuery
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result, page_json
from upshot.web.schemas.versions import AliasTarget, VersionChange, VersionPage
from upshot.web.transfer import BYTES, blob_response, make_transfer_router
from upshot.web.visibility import VisibilityDep

router = make_router("artifacts")
transfers = make_transfer_router("artifacts")

_ARTIFACTS = "/projects/{project}/artifacts"
_VERSIONS = _ARTIFACTS + "/{artifact}/versions"
_VERSION = _VERSIONS + "/{version}"
_ALIAS = _ARTIFACTS + "/{artifact}/aliases/{alias}"


def _changed(deps: WebDependencies, change: Change[ArtifactVersion]) -> ChangedArtifactVersion:
    return {**version_json(change.value, deps.base_url), **mutation_result(change)}


def _reference(project: str, artifact: str, version: str) -> str:
    return str(
        Reference(
            check_existing_name(project, "project"),
            check_existing_name(artifact, "artifact"),
            check_existing_name(version, "version"),
        )
    )


@router.get("/projects", responses={200: {"model": ProjectPage}, **problem_responses()})
def list_projects(deps: Deps, query: Annotated[PageQuery, Query()], visibility: VisibilityDep) -> Response:
    """Return the projects, by name."""
    page = deps.registry.projects(cursor=query.cursor, limit=query.limit)
    visible = tuple(name for name in page.items if visibility.sees_project(name))
    return json_response(page_json(Page(visible, page.next), _project_json))


@router.patch("/projects/{project}", responses={200: {"model": ProjectJson}, **problem_responses(403, 404, 409)})
def rename_project(project: str, body: NewName, deps: Deps, origin: OriginDep) -> Response:
    """Rename a project. Its artifacts keep their ids, versions and links."""
    return json_response(_project_json(deps.registry.rename_project(project, body.name, origin=origin).value))


def _project_json(name: str) -> ProjectJson:
    return {"name": name}


@router.post(
    _ARTIFACTS,
    status_code=201,
    responses={
        200: {"model": LoggedArtifactVersion, "description": "The content equals that of the newest version."},
        201: {"model": LoggedArtifactVersion},
        **problem_responses(409),
    },
)
def log_artifact(project: str, body: NewArtifactVersion, deps: Deps, origin: OriginDep) -> Response:
    """Log an artifact version. Creates the project and the artifact if they do not exist."""
    change = deps.registry.log_artifact(
        project,
        body.name,
        body.artifact_type,
        metadata=body.metadata,
        digest=body.digest,
        manifest=body.manifest,
        description=body.description,
        aliases=body.aliases,
        version_id=body.id,
        run_id=body.run_id,
        ttl_seconds=body.ttl_seconds,
        origin=origin,
    )
    location = api_path("projects", project, "artifacts", body.name, "versions", change.value.name)
    logged: LoggedArtifactVersion = {
        **_changed(deps, change),
        "metadata_ignored": change.metadata_ignored,
        "kept_aliases": list(change.kept_aliases),
    }
    return json_response(logged, 201 if change.created else 200, location=location)


@router.get(_ARTIFACTS, responses={200: {"model": ArtifactPage}, **problem_responses(404)})
def list_artifacts(project: str, deps: Deps, query: Annotated[ArtifactQuery, Query()]) -> Response:
    """Return the artifacts of a project, by name."""
    page = deps.registry.artifacts(project, query.where(), cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, lambda artifact: artifact_detail(artifact, deps.base_url)))


@router.get(_ARTIFACTS + "/{artifact}", responses={200: {"model": ArtifactDetail}, **problem_responses(404)})
def get_artifact(project: str, artifact: str, deps: Deps) -> Response:
    """Return an artifact with its aliases in the project."""
    return json_response(artifact_detail(deps.registry.artifact(project, artifact), deps.base_url))


@router.patch(
    _ARTIFACTS + "/{artifact}", responses={200: {"model": ArtifactDetail}, **problem_responses(403, 404, 409)}
)
def update_artifact(project: str, artifact: str, body: ArtifactChange, deps: Deps, origin: OriginDep) -> Response:
    """Rename an artifact, which keeps its id, versions, aliases and links, or set the ttl of its versions."""
    found = deps.registry.artifact(project, artifact)
    if "ttl_seconds" in body.model_fields_set:
        found = deps.registry.set_artifact_ttl(project, artifact, body.ttl_seconds, origin=origin).value
    if "name" in body.model_fields_set:
        found = deps.registry.rename_artifact(project, artifact, body.name, origin=origin).value
    return json_response(artifact_detail(found, deps.base_url))


@router.get(_VERSIONS, responses={200: {"model": VersionPage}, **problem_responses(404)})
def list_artifact_versions(
    project: str, artifact: str, deps: Deps, query: Annotated[ArtifactVersionQuery, Query()]
) -> Response:
    """Return the versions of an artifact, newest first, without manifests."""
    page = deps.registry.artifact_versions(project, artifact, query.where(), cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, lambda version: version_json(version, deps.base_url)))


@router.get(_VERSION, responses={200: {"model": VersionJson}, **problem_responses(404)})
def get_artifact_version(project: str, artifact: str, version: str, deps: Deps) -> Response:
    """Return the artifact version with this name (`v3`) or alias in the project."""
    found = deps.registry.artifact_version(_reference(project, artifact, version))
    return json_response(version_json(found, deps.base_url))


@router.patch(_VERSION, responses={200: {"model": ChangedArtifactVersion}, **problem_responses(404)})
def update_artifact_version(
    *, project: str, artifact: str, version: str, body: VersionChange, deps: Deps, origin: OriginDep
) -> Response:
    """Change metadata (a JSON merge patch), description and ttl. All links to the artifact version show the change."""
    change = deps.registry.update_artifact_version(project, artifact, version, **body.changes, origin=origin)
    return json_response(_changed(deps, change))


@router.delete(_VERSION, responses={200: {"model": MutationResult}, **problem_responses(404, 409)})
def delete_artifact_version(project: str, artifact: str, version: str, deps: Deps, origin: OriginDep) -> Response:
    """Delete an artifact version and every link to it, unless a protected alias points to one of them."""
    reference = _reference(project, artifact, version)
    return json_response(mutation_result(deps.registry.delete_artifact_version(reference, origin=origin)))


@router.get(_VERSION + "/files", responses={200: {"model": FilePage}, **problem_responses(404, 409)})
def list_files(project: str, artifact: str, version: str, deps: Deps, query: Annotated[FileQuery, Query()]) -> Response:
    """Return the files of an artifact version, by path."""
    page = deps.registry.files(_reference(project, artifact, version), cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, file_json))


@transfers.get(
    _VERSION + "/files/{path:path}",
    responses={200: {"content": BYTES}, **problem_responses(404, 409)},
    response_class=Response,
)
async def get_file(project: str, artifact: str, version: str, path: str, deps: Deps) -> Response:
    """Return the bytes of a file, as an attachment, or redirect to where they are. `Range` is supported."""
    _, entry = await run_in_threadpool(deps.registry.file, _reference(project, artifact, version), path)
    blob = await run_in_threadpool(deps.blobs.stored, entry.digest)
    return await blob_response(deps.blobs, blob, filename=path.rpartition("/")[2])


@router.get(_VERSION + "/diff", responses={200: {"model": DiffJson}, **problem_responses(404)})
def compare_versions(
    *,
    project: str,
    artifact: str,
    version: str,
    deps: Deps,
    other: Annotated[
        str,
        Query(alias="with", description="Another version of the artifact, or a reference or an id of any version."),
    ],
    visibility: VisibilityDep,
) -> Response:
    """Return how another version differs from this one: files that it adds, lacks or changes, and its metadata."""
    before, after, files = deps.registry.diff(project, artifact, version, other)
    visibility.check_project(after.project)
    changes = metadata_changes(before.metadata, after.metadata)
    return json_response(diff_json(before.reference, after.reference, files, changes))


@router.get(_VERSION + "/links", responses={200: {"model": LinksPage}, **problem_responses(404)})
def list_links(project: str, artifact: str, version: str, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return the versions of collections that are links to the artifact version."""
    links = deps.registry.links(project, artifact, version)
    visible = tuple(link for link in links if visibility.sees_registry(link.registry))
    return json_response(page_json(Page(visible, None), lambda link: version_json(link, deps.base_url)))


@router.put(_VERSION + "/tags/{tag}", responses={200: {"model": ChangedArtifactVersion}, **problem_responses(404)})
def add_artifact_version_tag(
    *, project: str, artifact: str, version: str, tag: str, deps: Deps, origin: OriginDep
) -> Response:
    """Add a tag to an artifact version. All links to it show the tag."""
    return json_response(_changed(deps, deps.registry.add_artifact_tag(project, artifact, tag, version, origin=origin)))


@router.delete(_VERSION + "/tags/{tag}", responses={200: {"model": ChangedArtifactVersion}, **problem_responses(404)})
def remove_artifact_version_tag(
    *, project: str, artifact: str, version: str, tag: str, deps: Deps, origin: OriginDep
) -> Response:
    """Remove a tag from an artifact version."""
    return json_response(
        _changed(deps, deps.registry.remove_artifact_tag(project, artifact, tag, version, origin=origin))
    )


@router.put(_ALIAS, responses={200: {"model": ChangedArtifactVersion}, **problem_responses(404)})
def move_artifact_alias(
    *, project: str, artifact: str, alias: str, body: AliasTarget, deps: Deps, origin: OriginDep
) -> Response:
    """Give an alias in the project to an artifact version. Collections have aliases of their own."""
    change = deps.registry.add_artifact_alias(project, artifact, alias, body.version, origin=origin)
    return json_response(_changed(deps, change))


@router.delete(_ALIAS, responses={200: {"model": MutationResult}, **problem_responses(404)})
def remove_artifact_alias(project: str, artifact: str, alias: str, deps: Deps, origin: OriginDep) -> Response:
    """Remove an alias in the project."""
    return json_response(mutation_result(deps.registry.remove_artifact_alias(project, artifact, alias, origin=origin)))
