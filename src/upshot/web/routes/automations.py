"""Automations as they are loaded from their folder, and what is wrong in it."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.adapters.cursor import after_cursor, make_cursor
from upshot.domain.automation import Automation
from upshot.errors import NotFound
from upshot.ports.paging import Page
from upshot.registry.lookup import hint
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.requests import PageQuery
from upshot.web.schemas.responses import (
    AutomationForm,
    AutomationsForm,
    automation_form,
    automation_view,
    broken_form,
    json_response,
    page_form,
)

router = make_router("automations")


@router.get("/automations", responses={200: {"model": AutomationsForm}, **responses()})
def list_automations(house: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Automations by name, and everything that is wrong in the folder."""
    listing: AutomationsForm = {
        **page_form(_page(house, query), automation_form),
        "broken": [broken_form(found) for file in house.automations.current.broken for found in file.errors],
    }
    return json_response(listing)


def _page(house: WebDependencies, query: PageQuery) -> Page[Automation]:
    ordered = sorted(house.automations.current.automations, key=lambda one: one.name)
    begin = bisect_right(ordered, after_cursor(query.cursor), key=lambda one: one.name) if query.cursor else 0
    items = tuple(ordered[begin : begin + query.limit])
    return Page(items, make_cursor(items[-1].name) if begin + query.limit < len(ordered) else None)


@router.get("/automations/{automation}", responses={200: {"model": AutomationForm}, **responses(404)})
def show_automation(automation: str, house: Deps) -> Response:
    """One automation with its document as it was written."""
    found = {one.name: one for one in house.automations.current.automations}
    if automation not in found:
        raise NotFound(f"there is no automation {automation!r}{hint(automation, found)}")
    return json_response(automation_view(found[automation]))
