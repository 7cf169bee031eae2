"""Routes for probes and Prometheus: health, readiness and metrics. They are not part of the API."""

from __future__ import annotations

import anyio.to_thread
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse, Response

from upshot.errors import Unavailable
from upshot.web.dependencies import WebDependencies
from upshot.web.problems import Problem, problem_responses
from upshot.web.routing import CheckedRoute, Deps
from upshot.web.schemas.health import Health, Readiness
from upshot.web.schemas.responses import json_response

router = APIRouter(tags=["health"], route_class=CheckedRoute, generate_unique_id_function=lambda route: route.name)

#: Threads of their own for the probes, which must not wait behind requests that wait for the database.
PROBE_THREADS = 4


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={200: {"model": Health}, **problem_responses()})
async def get_health() -> Response:
    """
    Report whether the process makes progress: its event loop runs.

    A database that is down, slow or locked is no reason to restart the process. Every call to it ends in bounded time.
    """
    health: Health = {"status": "ok"}
    return json_response(health)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={200: {"model": Readiness}, **problem_responses()})
async def get_readiness(request: Request, deps: Deps) -> Response:
    """
    Report whether mutations are accepted, which needs the database only.

    Without Redis or workers, answers to events are late, but no event is lost.
    """
    return await anyio.to_thread.run_sync(_readiness, deps, limiter=request.app.state.probe_threads)


def _readiness(deps: WebDependencies) -> Response:
    redis = deps.ping_redis()
    not_ready = Problem(503, "not-ready", "the database does not answer", database=False, redis=redis)
    if not deps.ping_database():
        raise not_ready
    try:
        backlog = deps.backlog.measure(deps.clock.now())
        workers = len(deps.live_workers())
    except Unavailable as error:
        raise not_ready from error
    readiness: Readiness = {
        "status": "ready",
        "database": True,
        "redis": redis,
        "workers": workers,
        "unmatched_events": backlog.unmatched_events,
        "due_executions": backlog.due_executions,
    }
    return json_response(readiness)


@router.get("/metrics", response_class=PlainTextResponse, responses=problem_responses())
async def get_metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    state = request.app.state
    metrics = await anyio.to_thread.run_sync(generate_latest, state.metrics, limiter=state.probe_threads)
    return Response(metrics, headers={"Content-Type": CONTENT_TYPE_LATEST})
