"""The route classes, and what handlers depend on: `Deps`, `CallerDep`, `OriginDep` and `IdempotencyKeyDep`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from upshot.domain.access import Caller
from upshot.domain.event import Actor, Origin, Role
from upshot.domain.job import Job
from upshot.domain.reference import check_name
from upshot.errors import Forbidden, NotFound, Unavailable
from upshot.jobs.events import job_origin
from upshot.resources.urls import API_PREFIX
from upshot.web.body import JsonRequest
from upshot.web.dependencies import WebDependencies
from upshot.web.idempotency import HEADER, ReservedKey, run_idempotently
from upshot.web.permissions import ACTOR_HEADER, check_permission, refused, rule_of
from upshot.web.problems import FieldError, Problem, invalid_input
from upshot.web.visibility import check_reach

#: Mutations that are in threads at the same time. The other threads of the process are left to reads.
MUTATION_THREADS = 24
MUTATION_TURN_SECONDS = 5.0  #: a mutation that has no thread after this time is refused

MUTATING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_ACTOR_HEADER = ACTOR_HEADER.lower().encode()
_REPEATABLE = frozenset({"metadata", "state"})  # query parameters that are lists
_REPEATABLE_OF_HISTORY = frozenset({"key"})  # of the rows of a run
_MAX_SHOWN = 5  # parameters that a message names
_MAX_SHOWN_CHARS = 100  # of each

#: Their responses have secrets, which are never stored, so these requests are not idempotent.
_SECRET = frozenset({f"{API_PREFIX}/tokens", f"{API_PREFIX}/sign-in-codes"})

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class CheckedRoute(APIRoute):
    """A route that checks whether its caller may use it, before the request is read, and records refusals."""

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        rule = rule_of(method, self.path_format)
        if method in (self.methods or ()) and rule.role is not None:
            caller = await self.caller(scope)
            try:
                if not caller.may_name_actor and any(name == _ACTOR_HEADER for name, _ in scope["headers"]):
                    who = "a job acts as itself" if caller.job else "only an admin's token may name another actor"
                    raise refused(f"header.{ACTOR_HEADER}: {who}; leave the header out")
                check_permission(caller, rule, method, self.path_format, scope["path_params"])
                await check_reach(scope, caller, rule)
            except Problem as problem:
                await scope["app"].state.refusals.record(caller, scope, self.path_format, problem.detail)
                raise
        await super().handle(scope, receive, send)

    async def caller(self, scope: Scope) -> Caller:
        """
        Return who makes the request.

        Raises:
            Problem: 401 if nobody is known.
        """
        caller: Caller | None = scope["state"].get("caller")
        if caller is None:
            detail = "no token; send `Authorization: Bearer TOKEN` with a token of this server"
            raise Problem(401, "unauthorized", detail)
        return caller

    @override
    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_and_record(request: Request) -> Response:
            try:
                return await handle(request)
            except Forbidden as error:
                await request.app.state.refusals.record(
                    request.state.caller, request.scope, self.path_format, str(error)
                )
                raise

        return handle_and_record


class ApiRoute(CheckedRoute):
    """A route that reads its body as strict JSON and supports `Idempotency-Key` on mutations."""

    @override
    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        has_body = self.body_field is not None

        async def handle_in_turn(received: Request) -> Response:
            if received.method not in MUTATING_METHODS:
                return await handle_strictly(received)
            async with received.app.state.mutation_slots:
                return await handle_strictly(received)

        async def handle_strictly(received: Request) -> Response:
            request = JsonRequest(received.scope, received.receive)
            _check_query(request)
            if has_body:
                _check_content_type(request)
            key = request.headers.get(HEADER) if request.method in MUTATING_METHODS else None
            if key is None or self.path_format in _SECRET:
                return await handle(request)
            return await run_idempotently(request.app.state.deps, key, request, handle)

        return handle_in_turn


class MutationSlots:
    """
    Lets a limited number of mutations wait for the database. The others wait here, which takes no thread.

    Used as a context manager around a mutation.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MUTATION_THREADS)

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(MUTATION_TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable("the mutations before this one wait for the database") from error

    async def __aexit__(self, *_: object) -> None:
        self._free.release()


def _check_query(request: Request) -> None:
    """Refuse a parameter that is given twice, since FastAPI would read only the last one."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    repeatable = _REPEATABLE
    if request.url.path.endswith("/history"):
        repeatable |= _REPEATABLE_OF_HISTORY
    if repeated := [name for name, count in counts.items() if count > 1 and name not in repeatable]:
        raise invalid_input(
            [
                FieldError(location=f"query.{name[:_MAX_SHOWN_CHARS]}", detail="is given twice; give it once")
                for name in repeated[:_MAX_SHOWN]
            ]
        )


def _check_content_type(request: Request) -> None:
    declared = request.headers.get("content-type", "")
    media_type = declared.partition(";")[0].strip().lower()
    if media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json")):
        return
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if not declared and not has_body:
        return  # the error about the missing body says more
    raise Problem(
        415,
        "unsupported-media-type",
        f"header.content-type: {declared[:100]!r} is not JSON; send `Content-Type: application/json`",
    )


def make_router(tag: str) -> APIRouter:
    """Return a router of the API. The tag groups its operations in the OpenAPI document."""
    return APIRouter(
        prefix=API_PREFIX, route_class=ApiRoute, tags=[tag], generate_unique_id_function=lambda route: route.name
    )


# These are coroutines because FastAPI would run a plain function in a thread.


async def _deps(request: Request) -> WebDependencies:
    deps: WebDependencies = request.app.state.deps
    return deps


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def _origin(
    request: Request,
    deps: Annotated[WebDependencies, Depends(_deps)],
    name: Annotated[
        str | None,
        Header(
            alias=ACTOR_HEADER,
            description="Who makes the change, for events and history: by default the name of the token. Only an "
            "admin's token may name somebody else.",
        ),
    ] = None,
) -> Origin:
    caller: Caller = request.state.caller
    if caller.job is not None:
        return await run_in_threadpool(_origin_of_job, deps, caller.job)
    if name is None:
        return Origin(caller.actor)
    try:
        name = name.encode("latin-1").decode()  # servers read headers as Latin-1, and names are UTF-8
    except UnicodeError as error:
        raise Problem(422, "invalid-input", f"header.{ACTOR_HEADER}: the name is not UTF-8") from error
    return Origin(Actor(check_name(name, f"header.{ACTOR_HEADER}"), role=Role.ADMIN))


def _origin_of_job(deps: WebDependencies, job: Job) -> Origin:
    stored = deps.events.find(job.event_id)
    if stored is None:
        raise NotFound(f"event {job.event_id!r}, for which job {job.id} runs, is no longer stored")
    return job_origin(job, stored.event)


async def _reserved_key(request: Request) -> ReservedKey | None:
    return getattr(request.state, "reserved_key", None)


Deps = Annotated[WebDependencies, Depends(_deps)]
CallerDep = Annotated[Caller, Depends(_caller)]
OriginDep = Annotated[Origin, Depends(_origin)]
IdempotencyKeyDep = Annotated[ReservedKey | None, Depends(_reserved_key)]
