"""Routes of workers."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from upshot.ports.paging import Page
from upshot.resources.worker import worker_json
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.responses import json_response, page_json
from upshot.web.schemas.workers import WorkerPage

router = make_router("workers")


@router.get("/workers", responses={200: {"model": WorkerPage}, **problem_responses()})
def list_workers(deps: Deps) -> Response:
    """Return the workers that are alive, oldest first, on one page."""
    return json_response(
        page_json(Page(deps.live_workers(), None), partial(worker_json, known=deps.automation_sets.read()))
    )
