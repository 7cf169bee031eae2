"""Collections: made, described, tagged, deleted."""

from __future__ import annotations

from typing import Annotated, cast
from urllib.parse import quote

from fastapi import Query
from starlette.responses import Response

from upshot.domain.registry import Change, Collection
from upshot.web.auth import API
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.requests import CollectionChange, NewCollection, PageQuery
from upshot.web.schemas.responses import (
    CollectionForm,
    MutationResult,
    PageForm,
    collection_form,
    effect_form,
    json_response,
    page_form,
)

router = make_router("collections")

_ALL = "/registries/{registry}/collections"
_ONE = _ALL + "/{collection}"


def _changed(change: Change[Collection]) -> CollectionForm:
    return {**collection_form(change.value), **effect_form(change)}


@router.post(_ALL, status_code=201, responses={201: {"model": CollectionForm}, **responses(409)})
def create_collection(registry: str, body: NewCollection, house: Deps, by: CallerDep) -> Response:
    """Make a collection; the registry too if there is none."""
    change = house.registry.create_collection(
        registry, body.name, body.artifact_type, description=body.description, **by
    )
    place = f"{API}/registries/{quote(registry, safe='')}/collections/{quote(body.name, safe='')}"
    return json_response(_changed(change), 201, location=place)


@router.get(_ALL, responses={200: {"model": PageForm[CollectionForm]}, **responses(404)})
def list_collections(registry: str, house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Collections of a registry, by name."""
    page = house.registry.collections(registry, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, collection_form))


@router.get(_ONE, responses={200: {"model": CollectionForm}, **responses(404)})
def show_collection(registry: str, collection: str, house: Deps) -> Response:
    """One collection with all its aliases."""
    return json_response(collection_form(house.registry.collection(registry, collection)))


@router.patch(_ONE, responses={200: {"model": CollectionForm}, **responses(404)})
def update_collection(registry: str, collection: str, body: CollectionChange, house: Deps, by: CallerDep) -> Response:
    """Change a collection's description."""
    return json_response(
        _changed(house.registry.update_collection(registry, collection, description=body.description, **by))
    )


@router.delete(_ONE, responses={200: {"model": MutationResult}, **responses(403, 404)})
def delete_collection(registry: str, collection: str, house: Deps, by: CallerDep) -> Response:
    """Delete a collection with its links and aliases; what was linked stays in its project."""
    return json_response(effect_form(house.registry.delete_collection(registry, collection, **by)))


@router.put(_ONE + "/tags/{tag}", responses={200: {"model": CollectionForm}, **responses(404)})
def tag_collection(registry: str, collection: str, tag: str, house: Deps, by: CallerDep) -> Response:
    """Tag a collection."""
    change = cast("Change[Collection]", house.registry.add_tag(registry, collection, tag, **by))
    return json_response(_changed(change))


@router.delete(_ONE + "/tags/{tag}", responses={200: {"model": CollectionForm}, **responses(404)})
def untag_collection(registry: str, collection: str, tag: str, house: Deps, by: CallerDep) -> Response:
    """Take a tag from a collection."""
    change = cast("Change[Collection]", house.registry.remove_tag(registry, collection, tag, **by))
    return json_response(_changed(change))
