"""Registries and the history of what was done in them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.domain.reference import check_name
from upshot.domain.registry import RegistrySettings
from upshot.errors import NotFound
from upshot.ports.paging import Page
from upshot.registry.lookup import hint
from upshot.web.problems import responses
from upshot.web.routing import CallerDep, Deps, make_router
from upshot.web.schemas.requests import PageQuery, ProtectedAliases
from upshot.web.schemas.responses import (
    HistoryForm,
    PageForm,
    RegistryForm,
    history_form,
    json_response,
    page_form,
    registry_form,
)

router = make_router("registries")


@router.get("/registries", responses={200: {"model": PageForm[RegistryForm]}, **responses()})
def list_registries(house: Deps) -> Response:
    """All registries, by name, on one page."""
    page: Page[RegistrySettings] = Page(house.registry.registries(), None)
    return json_response(page_form(page, registry_form))


@router.get("/registries/{registry}", responses={200: {"model": RegistryForm}, **responses(404)})
def show_registry(registry: str, house: Deps) -> Response:
    """One registry and its rules."""
    check_name(registry, "registry")
    found = {one.name: one for one in house.registry.registries()}
    if registry not in found:
        raise NotFound(f"there is no registry {registry!r}{hint(registry, found)}")
    return json_response(registry_form(found[registry]))


@router.put("/registries/{registry}/protected-aliases", responses={200: {"model": RegistryForm}, **responses()})
def protect_aliases(registry: str, body: ProtectedAliases, house: Deps, by: CallerDep) -> Response:
    """Say which aliases only an admin may add, move or remove; makes the registry if there is none."""
    return json_response(registry_form(house.registry.protect_aliases(registry, body.patterns, actor=by["actor"])))


@router.get("/history", responses={200: {"model": PageForm[HistoryForm]}, **responses()})
def show_history(house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Every mutation, newest first."""
    return _history(house, None, None, query)


@router.get("/registries/{registry}/history", responses={200: {"model": PageForm[HistoryForm]}, **responses(404)})
def show_history_of_registry(registry: str, house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Every mutation in a registry, newest first."""
    return _history(house, registry, None, query)


@router.get(
    "/registries/{registry}/collections/{collection}/history",
    responses={200: {"model": PageForm[HistoryForm]}, **responses(404)},
)
def show_history_of_collection(
    registry: str, collection: str, house: Deps, query: Annotated[PageQuery, Query()]
) -> Response:
    """Every mutation of a collection, newest first, also of one that was deleted."""
    return _history(house, registry, collection, query)


def _history(house: Deps, registry: str | None, collection: str | None, query: PageQuery) -> Response:
    page = house.registry.history(registry, collection, cursor=query.cursor, limit=query.limit)
    return json_response(page_form(page, history_form))
