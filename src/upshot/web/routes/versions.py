"""Versions of a collection: linked, changed, tagged, unlinked; and who holds which alias."""

from __future__ import annotations

from typing import Annotated, cast
from urllib.parse import quote

from fastapi import Query
from starlette.responses import Response

from upshot.domain.registry import Change, Version
from upshot.web.auth import API
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.requests import AliasTarget, NewLink, PageQuery, VersionChange
from upshot.web.schemas.responses import (
    MutationResult,
    PageForm,
    VersionForm,
    effect_form,
    json_response,
    page_form,
    version_form,
)

router = make_router("versions")

_COLLECTION = "/registries/{registry}/collections/{collection}"
_ALL = _COLLECTION + "/versions"
_ONE = _ALL + "/{version}"
_ALIAS = _COLLECTION + "/aliases/{alias}"


def _changed(change: Change[Version]) -> VersionForm:
    return {**version_form(change.value), **effect_form(change)}


@router.post(
    _ALL,
    status_code=201,
    responses={
        200: {"model": VersionForm, "description": "It was linked already; aliases may have moved."},
        201: {"model": VersionForm},
        **responses(403, 404, 409),
    },
)
def link(registry: str, collection: str, body: NewLink, house: Deps, by: CallerDep) -> Response:
    """Link an artifact version; makes the collection if there is none, moves `latest` and the aliases asked for."""
    change = house.registry.link(registry, collection, body.artifact, aliases=body.aliases, **by)
    place = f"{API}/registries/{quote(registry, safe='')}/collections/{quote(collection, safe='')}"
    return json_response(
        _changed(change), 201 if change.created else 200, location=f"{place}/versions/{change.value.name}"
    )


@router.get(_ALL, responses={200: {"model": PageForm[VersionForm]}, **responses(404)})
def list_versions(registry: str, collection: str, house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Versions of a collection, the newest first."""
    page = house.registry.versions(registry, collection, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, version_form))


@router.get(_ONE, responses={200: {"model": VersionForm}, **responses(404)})
def show_version(registry: str, collection: str, version: str, house: Deps) -> Response:
    """The version that `v3` or an alias means."""
    return json_response(version_form(house.registry.version(registry, collection, version)))


@router.patch(_ONE, responses={200: {"model": VersionForm}, **responses(404)})
def update_version(
    *, registry: str, collection: str, version: str, body: VersionChange, house: Deps, by: CallerDep
) -> Response:
    """Change metadata (a JSON merge patch) and description; they belong to the artifact version that is linked."""
    change = house.registry.update_version(
        registry,
        collection,
        version,
        metadata=body.new_metadata,
        description=body.new_description,
        **by,
    )
    return json_response(_changed(change))


@router.delete(_ONE, responses={200: {"model": MutationResult}, **responses(403, 404)})
def unlink(registry: str, collection: str, version: str, house: Deps, by: CallerDep) -> Response:
    """Unlink a version and remove its aliases; the artifact stays in its project."""
    return json_response(effect_form(house.registry.unlink(registry, collection, version, **by)))


@router.put(_ONE + "/tags/{tag}", responses={200: {"model": VersionForm}, **responses(404)})
def tag_version(*, registry: str, collection: str, version: str, tag: str, house: Deps, by: CallerDep) -> Response:
    """Tag a version; tags belong to the artifact version that is linked."""
    change = cast("Change[Version]", house.registry.add_tag(registry, collection, tag, version, **by))
    return json_response(_changed(change))


@router.delete(_ONE + "/tags/{tag}", responses={200: {"model": VersionForm}, **responses(404)})
def untag_version(*, registry: str, collection: str, version: str, tag: str, house: Deps, by: CallerDep) -> Response:
    """Take a tag from a version."""
    change = cast("Change[Version]", house.registry.remove_tag(registry, collection, tag, version, **by))
    return json_response(_changed(change))


@router.put(_ALIAS, responses={200: {"model": VersionForm}, **responses(403, 404)})
def add_alias(*, registry: str, collection: str, alias: str, body: AliasTarget, house: Deps, by: CallerDep) -> Response:
    """Give the alias to a version, whoever held it."""
    return json_response(_changed(house.registry.add_alias(registry, collection, alias, body.version, **by)))


@router.delete(_ALIAS, responses={200: {"model": MutationResult}, **responses(403, 404)})
def remove_alias(registry: str, collection: str, alias: str, house: Deps, by: CallerDep) -> Response:
    """Take the alias from its holder."""
    return json_response(effect_form(house.registry.remove_alias(registry, collection, alias, **by)))
