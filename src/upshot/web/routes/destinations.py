"""Routes of destinations."""

from __future__ import annotations

from datetime import timedelta

from starlette.responses import Response

from upshot.errors import NotFound
from upshot.ids import derive_destination_id
from upshot.ports.destinations import Destination
from upshot.ports.paging import Page
from upshot.resources.destination import DestinationJson, destination_json
from upshot.resources.urls import API_PREFIX
from upshot.web.dependencies import WORKER_TIMEOUT_SECONDS, WebDependencies
from upshot.web.problems import problem_responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.destinations import DestinationPage
from upshot.web.schemas.responses import json_response, page_json

router = make_router("destinations")

_DESTINATION = "/destinations/{destination_id}"


@router.get("/destinations", responses={200: {"model": DestinationPage}, **problem_responses()})
def list_destinations(deps: Deps) -> Response:
    """Return the destinations that workers send to, by name, on one page."""
    return json_response(page_json(Page(_destinations(deps), None), destination_json))


@router.get(_DESTINATION, responses={200: {"model": DestinationJson}, **problem_responses(404)})
def get_destination(destination_id: str, deps: Deps) -> Response:
    """Return a destination."""
    return json_response(destination_json(_find(deps, destination_id)))


@router.post(_DESTINATION + "/release", responses={200: {"model": DestinationJson}, **problem_responses(404)})
def release_destination(destination_id: str, deps: Deps) -> Response:
    """Ask the workers to consider a destination up. They do so within five seconds."""
    destination = _find(deps, destination_id)
    deps.destinations.release(destination.name, deps.clock.now())
    return json_response(destination_json(destination))


def _destinations(deps: WebDependencies) -> tuple[Destination, ...]:
    return deps.destinations.list(seen_since=deps.clock.now() - timedelta(seconds=WORKER_TIMEOUT_SECONDS))


def _find(deps: WebDependencies, destination_id: str) -> Destination:
    for destination in _destinations(deps):
        if derive_destination_id(destination.name) == destination_id:
            return destination
    raise NotFound(
        f"no worker has sent to destination {destination_id!r} lately; GET {API_PREFIX}/destinations lists destinations"
    )
