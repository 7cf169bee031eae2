"""Whether the process lives, whether it can be used, and its metrics: outside of the API, for machines."""

from __future__ import annotations

import anyio
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from typing_extensions import TypedDict

from upshot.errors import Unavailable
from upshot.ports.paging import Page
from upshot.web.problems import Problem, responses
from upshot.web.routing import Deps, make_router
from upshot.web.schemas.responses import PageForm, WorkerForm, json_response, page_form, worker_form

router = APIRouter(tags=["health"])
api_router = make_router("health")

STUCK_SECONDS = 10.0  #: a process whose threads are all busy for so long makes no progress


class HealthForm(TypedDict):
    """The process lives."""

    status: str


class ReadinessForm(TypedDict):
    """What can be used now."""

    status: str  #: ready
    database: bool
    redis: bool  #: false: mutations are accepted, and answered when it is back
    workers: int  #: alive; none: mutations are accepted, and answered when one is
    unmatched_events: int
    due_executions: int  #: waiting and past their time


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"model": HealthForm}, **responses()})
async def health() -> Response:
    """Whether the process makes progress: its loop answers, and a thread becomes free for a request."""
    with anyio.move_on_after(STUCK_SECONDS):
        await run_in_threadpool(lambda: None)
        return json_response({"status": "ok"})
    raise Problem(503, "stuck", f"every thread has been busy for {STUCK_SECONDS:.0f} seconds; restart the process")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={200: {"model": ReadinessForm}, **responses()})
def readiness(house: Deps) -> Response:
    """Whether mutations are accepted: the database answers. What else is missing delays answers, and loses none."""
    redis = house.redis_answers()
    if not house.database_answers():
        raise Problem(503, "not-ready", "the database does not answer", database=False, redis=redis)
    try:
        backlog = house.backlog.measure(house.clock.now())
        workers = len(house.workers_alive())
    except Unavailable as error:
        raise Problem(503, "not-ready", "the database does not answer", database=False, redis=redis) from error
    form: ReadinessForm = {
        "status": "ready",
        "database": True,
        "redis": redis,
        "workers": workers,
        "unmatched_events": backlog.unmatched_events,
        "due_executions": backlog.due_executions,
    }
    return json_response(form)


@router.get("/metrics", response_class=PlainTextResponse, responses=responses())
def metrics(request: Request) -> Response:
    """What Prometheus scrapes."""
    return Response(generate_latest(request.app.state.metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})


@api_router.get("/workers", responses={200: {"model": PageForm[WorkerForm]}, **responses()})
def list_workers(house: Deps) -> Response:
    """Workers that are alive, the oldest first, on one page."""
    return json_response(page_form(Page(house.workers_alive(), None), worker_form))
