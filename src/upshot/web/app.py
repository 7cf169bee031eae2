"""The web application: routes, errors, gate and document, put together around a house."""

from __future__ import annotations

from fastapi import FastAPI

from upshot.web import openapi, problems
from upshot.web.auth import API, JobTokenAuth, TokenAuth
from upshot.web.dependencies import WebDependencies
from upshot.web.docs import router as docs
from upshot.web.metrics import RequestMetrics, make_registry
from upshot.web.middleware import Gate
from upshot.web.routes import automations, collections, events, executions, health, jobs, projects, registries, versions

_ROUTERS = (
    registries.router,
    collections.router,
    versions.router,
    projects.router,
    events.router,
    executions.router,
    jobs.router,
    automations.router,
    health.api_router,
    health.router,
    docs,
)


def create_app(house: WebDependencies) -> FastAPI:
    """
    The ASGI application of a house.

    Raises:
        ConfigError: The settings would serve other machines without a token.
    """
    app = FastAPI(
        title="Upshot", openapi_url=f"{API}/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.house = house
    app.state.metrics = make_registry(house)
    for router in _ROUTERS:
        # Not `include_router`: it prepares every route a second time, at the first request, for half a second.
        app.router.routes.extend(router.routes)
    problems.install(app)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign] # FastAPI's documented way
    app.add_middleware(
        Gate,
        access=TokenAuth(house.settings, house.installation.key),
        job_access=JobTokenAuth(house.jobs),
        metrics=RequestMetrics(app.state.metrics),
    )
    return app
