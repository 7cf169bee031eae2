"""Routes of automations, as they are loaded from their directory."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from upshot.adapters.cursor import decode_cursor, make_cursor
from upshot.errors import NotFound
from upshot.ports.paging import Page
from upshot.resources.automation import AutomationDetail, automation_detail, automation_json
from upshot.suggestions import did_you_mean
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.automations import AutomationPage
from upshot.web.schemas.requests import PageQuery
from upshot.web.schemas.responses import json_response, page_json

router = make_router("automations")


@router.get("/automations", responses={200: {"model": AutomationPage}, **problem_responses()})
def list_automations(deps: Deps, query: Annotated[PageQuery, Query()]) -> Response:
    """Return the automations in force, by name, and the mistakes in the directory."""
    loaded = deps.automations.current
    automations = sorted(loaded.automations, key=lambda automation: automation.name)
    start = 0
    if query.cursor:
        start = bisect_right(automations, decode_cursor(query.cursor), key=lambda automation: automation.name)
    end = start + query.limit
    items = tuple(automations[start:end])
    page = Page(items, make_cursor(items[-1].name) if end < len(automations) else None)
    response: AutomationPage = {
        **page_json(page, partial(automation_json, kept_names=loaded.kept)),
        "broken": [
            {"path": mistake.path, "line": mistake.line, "reason": mistake.reason, "kept": list(file.kept)}
            for file in loaded.broken
            for mistake in file.errors
        ],
    }
    return json_response(response)


@router.get("/automations/{automation}", responses={200: {"model": AutomationDetail}, **problem_responses(404)})
def get_automation(automation: str, deps: Deps) -> Response:
    """Return an automation with its document as it was written."""
    current = deps.automations.current
    by_name = {loaded.name: loaded for loaded in current.automations}
    if automation not in by_name:
        raise NotFound(f"there is no automation {automation!r}{did_you_mean(automation, by_name)}")
    return json_response(automation_detail(by_name[automation], kept_names=current.kept))
