"""Routes of registries and their history."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from starlette.responses import Response, StreamingResponse

from upshot.domain.reference import spellings
from upshot.errors import NotFound
from upshot.ports.paging import Page
from upshot.resources.history_export import export_lines
from upshot.resources.registry import RegistryDetail, history_entry_json, registry_detail
from upshot.suggestions import did_you_mean
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, OriginDep, make_router
from upshot.web.schemas.registries import HistoryExport, HistoryPage, ProtectedAliases, RegistryPage
from upshot.web.schemas.requests import PageQuery
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.visibility import VisibilityDep

router = make_router("registries")


@router.get("/registries", responses={200: {"model": RegistryPage}, **problem_responses()})
def list_registries(deps: Deps, visibility: VisibilityDep) -> Response:
    """Return all registries, by name, on one page."""
    visible = tuple(found for found in deps.registry.registries() if visibility.sees_registry(found.name))
    return json_response(page_json(Page(visible, None), registry_detail))


@router.get("/registries/{registry}", responses={200: {"model": RegistryDetail}, **problem_responses(404)})
def get_registry(registry: str, deps: Deps, visibility: VisibilityDep) -> Response:
    """Return a registry with its rules."""
    names = spellings(registry, "registry")
    visible = (found for found in deps.registry.registries() if visibility.sees_registry(found.name))
    registries = {settings.name: settings for settings in visible}
    for name in names:
        if name in registries:
            return json_response(registry_detail(registries[name]))
    raise NotFound(f"there is no registry {registry!r}{did_you_mean(registry, registries)}")


@router.put(
    "/registries/{registry}/protected-aliases", responses={200: {"model": RegistryDetail}, **problem_responses(409)}
)
def set_protected_aliases(registry: str, body: ProtectedAliases, deps: Deps, origin: OriginDep) -> Response:
    """
    Set which aliases only an admin and some automations may add, move or remove.

    Creates the registry if it does not exist.
    """
    settings = deps.registry.protect_aliases(registry, body.patterns, automations=body.automations, origin=origin)
    return json_response(registry_detail(settings))


@router.get("/history", responses={200: {"model": HistoryPage}, **problem_responses()})
def list_history(deps: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Return every mutation, newest first."""
    return _history(deps, None, None, query)


@router.get(
    "/history/export",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problem_responses()},
)
def export_history(deps: Deps, query: Annotated[HistoryExport, Query()]) -> Response:
    """Return the whole history, newest first, as CSV or as JSON lines: of everything, a registry or a collection."""
    entries = (history_entry_json(entry) for entry in deps.registry.export_history(query.registry, query.collection))
    return StreamingResponse(
        (line.encode() for line in export_lines(entries, query.format)),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="history.{query.format}"'},
    )


@router.get("/registries/{registry}/history", responses={200: {"model": HistoryPage}, **problem_responses(404)})
def list_registry_history(registry: str, deps: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Return every mutation in a registry, newest first."""
    return _history(deps, registry, None, query)


@router.get(
    "/registries/{registry}/collections/{collection}/history",
    responses={200: {"model": HistoryPage}, **problem_responses(404)},
)
def list_collection_history(
    registry: str, collection: str, deps: Deps, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return every mutation of a collection, newest first, also if the collection was deleted."""
    return _history(deps, registry, collection, query)


def _history(deps: Deps, registry: str | None, collection: str | None, query: PageQuery) -> Response:
    page = deps.registry.history(registry, collection, cursor=query.cursor, limit=query.limit)
    return json_response(page_json(page, history_entry_json))
