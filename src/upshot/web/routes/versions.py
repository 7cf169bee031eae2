"""Routes of the versions of a collection and their aliases."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Query
from starlette.responses import Response

from upshot.domain.registry import Change, Version
from upshot.domain.stage import parse_stage
from upshot.resources.urls import api_path
from upshot.resources.version import VersionJson, version_json
from upshot.web.dependencies import WebDependencies
from upshot.web.earlier_requests import earlier_request
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.registry_filters import VersionQuery
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result, page_json
from upshot.web.schemas.versions import (
    AliasTarget,
    ChangedVersion,
    LinkedVersion,
    NewLink,
    StageChange,
    VersionChange,
    VersionPage,
)
from upshot.web.visibility import VisibilityDep, check_source

router = make_router("versions")

_COLLECTION = "/registries/{registry}/collections/{collection}"
_VERSIONS = _COLLECTION + "/versions"
_VERSION = _VERSIONS + "/{version}"
_ALIAS = _COLLECTION + "/aliases/{alias}"


def _changed(deps: WebDependencies, change: Change[Version]) -> ChangedVersion:
    return {**version_json(change.value, deps.base_url), **mutation_result(change)}


@router.post(
    _VERSIONS,
    status_code=201,
    responses={
        200: {"model": LinkedVersion, "description": "The link existed already; aliases may have moved."},
        201: {"model": LinkedVersion},
        **problem_responses(403, 404, 409),
    },
)
def link_version(
    *, registry: str, collection: str, body: NewLink, deps: Deps, origin: OriginDep, visibility: VisibilityDep
) -> Response:
    """
    Link an artifact version into a collection, and move `latest` and the given aliases to it.

    Creates the collection if it does not exist.
    """
    check_source(deps, visibility, body.artifact)
    change = deps.registry.link(
        registry,
        collection,
        body.artifact,
        aliases=body.aliases,
        link_id=body.id,
        earlier=earlier_request(body.happened_at),
        origin=origin,
    )
    version = change.value
    location = api_path("registries", version.registry, "collections", version.collection, "versions", version.name)
    linked: LinkedVersion = {**_changed(deps, change), "kept_aliases": list(change.kept_aliases)}
    return json_response(linked, 201 if change.created else 200, location=location)


@router.get(_VERSIONS, responses={200: {"model": VersionPage}, **problem_responses(404)})
def list_versions(registry: str, collection: str, deps: Deps, query: Annotated[VersionQuery, Query()]) -> Response:
    """Return the versions of a collection, newest first."""
    page = deps.registry.versions(registry, collection, query.where(), cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, lambda version: version_json(version, deps.base_url)))


@router.get(_VERSION, responses={200: {"model": VersionJson}, **problem_responses(404)})
def get_version(registry: str, collection: str, version: str, deps: Deps) -> Response:
    """Return the version with this name (`v3`) or alias."""
    return json_response(version_json(deps.registry.version(registry, collection, version), deps.base_url))


@router.patch(_VERSION, responses={200: {"model": ChangedVersion}, **problem_responses(404)})
def update_version(
    *, registry: str, collection: str, version: str, body: VersionChange, deps: Deps, origin: OriginDep
) -> Response:
    """Change metadata (a JSON merge patch), description and ttl. They belong to the linked artifact version."""
    change = deps.registry.update_version(
        registry,
        collection,
        version,
        **body.changes,
        origin=origin,
    )
    return json_response(_changed(deps, change))


@router.put(_VERSION + "/stage", responses={200: {"model": ChangedVersion}, **problem_responses(404)})
def set_stage(
    *, registry: str, collection: str, version: str, body: StageChange, deps: Deps, origin: OriginDep
) -> Response:
    """Move a version to a stage."""
    change = deps.registry.set_stage(
        registry,
        collection,
        version,
        parse_stage(body.stage),
        archive_existing=body.archive_existing,
        origin=origin,
    )
    return json_response(_changed(deps, change))


@router.delete(_VERSION, responses={200: {"model": MutationResult}, **problem_responses(403, 404)})
def unlink_version(registry: str, collection: str, version: str, deps: Deps, origin: OriginDep) -> Response:
    """Unlink a version and remove its aliases. The artifact version stays in its project."""
    return json_response(mutation_result(deps.registry.unlink(registry, collection, version, origin=origin)))


@router.put(_VERSION + "/tags/{tag}", responses={200: {"model": ChangedVersion}, **problem_responses(404)})
def add_version_tag(
    *, registry: str, collection: str, version: str, tag: str, deps: Deps, origin: OriginDep
) -> Response:
    """Add a tag to a version. Tags belong to the linked artifact version."""
    change = cast("Change[Version]", deps.registry.add_tag(registry, collection, tag, version, origin=origin))
    return json_response(_changed(deps, change))


@router.delete(_VERSION + "/tags/{tag}", responses={200: {"model": ChangedVersion}, **problem_responses(404)})
def remove_version_tag(
    *, registry: str, collection: str, version: str, tag: str, deps: Deps, origin: OriginDep
) -> Response:
    """Remove a tag from a version."""
    change = cast("Change[Version]", deps.registry.remove_tag(registry, collection, tag, version, origin=origin))
    return json_response(_changed(deps, change))


@router.put(_ALIAS, responses={200: {"model": ChangedVersion}, **problem_responses(403, 404)})
def move_alias(
    *, registry: str, collection: str, alias: str, body: AliasTarget, deps: Deps, origin: OriginDep
) -> Response:
    """Give an alias to a version. Another version that holds the alias loses it."""
    change = deps.registry.add_alias(registry, collection, alias, body.version, origin=origin)
    return json_response(_changed(deps, change))


@router.delete(_ALIAS, responses={200: {"model": MutationResult}, **problem_responses(403, 404)})
def remove_alias(registry: str, collection: str, alias: str, deps: Deps, origin: OriginDep) -> Response:
    """Remove an alias."""
    return json_response(mutation_result(deps.registry.remove_alias(registry, collection, alias, origin=origin)))
