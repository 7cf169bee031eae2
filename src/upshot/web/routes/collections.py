"""Routes of collections."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Query
from starlette.responses import Response

from upshot.domain.registry import Change, Collection
from upshot.ports.paging import Page
from upshot.resources.collection import CollectionJson, card_revision_json, collection_json
from upshot.resources.urls import api_path
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.collections import (
    CardRevisionPage,
    ChangedCollection,
    CollectionChange,
    CollectionPage,
    NewCollection,
)
from upshot.web.schemas.registry_filters import CollectionQuery
from upshot.web.schemas.responses import MutationResult, json_response, mutation_result, page_json

router = make_router("collections")

_COLLECTIONS = "/registries/{registry}/collections"
_COLLECTION = _COLLECTIONS + "/{collection}"


def _changed(deps: WebDependencies, change: Change[Collection]) -> ChangedCollection:
    return {**collection_json(change.value, deps.base_url), **mutation_result(change)}


@router.post(_COLLECTIONS, status_code=201, responses={201: {"model": ChangedCollection}, **problem_responses(409)})
def create_collection(registry: str, body: NewCollection, deps: Deps, origin: OriginDep) -> Response:
    """Create a collection, and its registry if that does not exist."""
    change = deps.registry.create_collection(
        registry, body.name, body.artifact_type, description=body.description, origin=origin
    )
    location = api_path("registries", change.value.registry, "collections", change.value.name)
    return json_response(_changed(deps, change), 201, location=location)


@router.get(_COLLECTIONS, responses={200: {"model": CollectionPage}, **problem_responses(404)})
def list_collections(registry: str, deps: Deps, query: Annotated[CollectionQuery, Query()]) -> Response:
    """Return the collections of a registry, by name."""
    page = deps.registry.collections(registry, query.where(), cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, lambda collection: collection_json(collection, deps.base_url)))


@router.get(_COLLECTION, responses={200: {"model": CollectionJson}, **problem_responses(404)})
def get_collection(registry: str, collection: str, deps: Deps) -> Response:
    """Return a collection with all its aliases."""
    return json_response(collection_json(deps.registry.collection(registry, collection), deps.base_url))


@router.get(_COLLECTION + "/card-revisions", responses={200: {"model": CardRevisionPage}, **problem_responses(404)})
def list_card_revisions(registry: str, collection: str, deps: Deps) -> Response:
    """Return the descriptions (model cards) that a collection has had, newest first, the current one included."""
    revisions = deps.registry.card_revisions(registry, collection)
    return json_response(page_json(Page(tuple(revisions), None), card_revision_json))


@router.patch(_COLLECTION, responses={200: {"model": ChangedCollection}, **problem_responses(404)})
def update_collection(
    registry: str, collection: str, body: CollectionChange, deps: Deps, origin: OriginDep
) -> Response:
    """Change the name, the description or the metadata of a collection."""
    change = deps.registry.update_collection(registry, collection, **body.changes, origin=origin)
    return json_response(_changed(deps, change))


@router.delete(_COLLECTION, responses={200: {"model": MutationResult}, **problem_responses(403, 404)})
def delete_collection(registry: str, collection: str, deps: Deps, origin: OriginDep) -> Response:
    """Delete a collection with its links and aliases. The artifacts stay in their projects."""
    return json_response(mutation_result(deps.registry.delete_collection(registry, collection, origin=origin)))


@router.put(_COLLECTION + "/tags/{tag}", responses={200: {"model": ChangedCollection}, **problem_responses(404)})
def add_collection_tag(registry: str, collection: str, tag: str, deps: Deps, origin: OriginDep) -> Response:
    """Add a tag to a collection."""
    change = cast("Change[Collection]", deps.registry.add_tag(registry, collection, tag, origin=origin))
    return json_response(_changed(deps, change))


@router.delete(_COLLECTION + "/tags/{tag}", responses={200: {"model": ChangedCollection}, **problem_responses(404)})
def remove_collection_tag(registry: str, collection: str, tag: str, deps: Deps, origin: OriginDep) -> Response:
    """Remove a tag from a collection."""
    change = cast("Change[Collection]", deps.registry.remove_tag(registry, collection, tag, origin=origin))
    return json_response(_changed(deps, change))
