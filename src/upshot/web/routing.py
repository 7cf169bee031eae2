"""How routes of the API are made: strict bodies, answers that are given once, the house and the caller at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypedDict

from fastapi import APIRouter, Depends, Header
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from upshot.domain.event import Actor, Cause
from upshot.domain.job import Job
from upshot.domain.reference import check_name
from upshot.errors import NotFound
from upshot.jobs.events import actor_of, chain_of
from upshot.web.auth import ACTOR_HEADER, API
from upshot.web.body import JsonRequest
from upshot.web.dependencies import WebDependencies
from upshot.web.idempotency import HEADER, ReservedKey, answer_once
from upshot.web.problems import FieldError, Problem, invalid

DEFAULT_ACTOR = "admin"  #: who bears the token, as long as tokens have no names
MUTATIONS = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_SHOWN = 5  # parameters that a message names
_SHOWN_CHARS = 100  # of each

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Caller(TypedDict):
    """In whose name a request changes something: what every verb of the registry that does so takes."""

    actor: Actor
    chain: tuple[Cause, ...]  #: the executions that led to the request, oldest first; events carry it


class ApiRoute(APIRoute):
    """A route whose body is strict JSON and whose mutation is done once for each key."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, inside ours."""
        handle = super().get_route_handler()
        needs_body = self.body_field is not None

        async def answer(received: Request) -> Response:
            request = JsonRequest(received.scope, received.receive)
            _check_query(request)
            if needs_body:
                _check_content_type(request)
            key = request.headers.get(HEADER) if request.method in MUTATIONS else None
            if key is None:
                return await handle(request)
            return await answer_once(request.app.state.house, key, request, handle)

        return answer


def _check_query(request: Request) -> None:
    """Refuse what would be read by halves: of a parameter that stands there twice, only the last would count."""
    counted = Counter(name for name, _ in request.query_params.multi_items())
    if twice := [name for name, count in counted.items() if count > 1]:
        raise invalid(
            [
                FieldError(place=f"query.{name[:_SHOWN_CHARS]}", detail="is given twice; give it once")
                for name in twice[:_SHOWN]
            ]
        )


def _check_content_type(request: Request) -> None:
    declared = request.headers.get("content-type", "")
    kind = declared.partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if (
        not declared
        and request.headers.get("content-length", "0") == "0"
        and "transfer-encoding" not in request.headers
    ):
        return  # there is no body, which says more
    raise Problem(
        415,
        "unsupported-media-type",
        f"header.content-type: {declared[:100]!r} is not JSON; send `Content-Type: application/json`",
    )


def make_router(tag: str) -> APIRouter:
    """A router of the API; the tag is its chapter in the OpenAPI document."""
    return APIRouter(prefix=API, route_class=ApiRoute, tags=[tag])


# Both are coroutines: FastAPI would send a plain function to a thread.


async def _house(request: Request) -> WebDependencies:
    house: WebDependencies = request.app.state.house
    return house


async def _caller(
    request: Request,
    house: Annotated[WebDependencies, Depends(_house)],
    name: Annotated[
        str | None,
        Header(alias=ACTOR_HEADER, description="Who does this, for events and history; `admin` if left out."),
    ] = None,
) -> Caller:
    job: Job | None = getattr(request.state, "job", None)
    if job is not None:
        return await run_in_threadpool(_as_itself, house, job)
    if name is None:
        return Caller(actor=Actor(DEFAULT_ACTOR, role="admin"), chain=())
    try:
        name = name.encode("latin-1").decode()  # servers read headers as Latin-1; names are UTF-8
    except UnicodeError as error:
        raise Problem(422, "invalid-input", f"header.{ACTOR_HEADER}: the name is not UTF-8") from error
    return Caller(actor=Actor(check_name(name, f"header.{ACTOR_HEADER}"), role="admin"), chain=())


def _as_itself(house: WebDependencies, job: Job) -> Caller:
    """A job, and what led to it: its execution, and the executions that led to the event which that answers."""
    stored = house.events.find(job.event_id)
    if stored is None:
        raise NotFound(f"event {job.event_id!r}, which job {job.id} answers, is not kept any more")
    return Caller(actor=actor_of(job), chain=chain_of(job, stored.event))


async def _taken_key(request: Request) -> ReservedKey | None:
    return getattr(request.state, "taken_key", None)


Deps = Annotated[WebDependencies, Depends(_house)]
CallerDep = Annotated[Caller, Depends(_caller)]
IdempotencyKeyDep = Annotated[ReservedKey | None, Depends(_taken_key)]
