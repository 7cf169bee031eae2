"""The web application: routes, middleware, error handlers and the OpenAPI document."""

from __future__ import annotations

import anyio
from fastapi import FastAPI

from upshot.resources.urls import API_PREFIX
from upshot.web import openapi, problems
from upshot.web.auth import TokenAuth, configured_token
from upshot.web.dependencies import WebDependencies
from upshot.web.docs import router as docs
from upshot.web.failed_attempts import FailedAttempts
from upshot.web.known_tokens import KnownTokens
from upshot.web.metrics import make_metrics
from upshot.web.middleware import build_middleware
from upshot.web.pages import home, sign_in, static_files
from upshot.web.refusals import Refusals
from upshot.web.routes import (
    artifacts,
    automations,
    blobs,
    collections,
    comments,
    destinations,
    events,
    executions,
    health,
    jobs,
    pending_versions,
    registries,
    run_history,
    runs,
    tokens,
    usage,
    versions,
    workers,
)
from upshot.web.routing import MutationSlots
from upshot.web.sessions import Sessions
from upshot.web.transfer import TRANSFER_THREADS

ROUTERS = (
    registries.router,
    collections.router,
    versions.router,
    artifacts.router,
    artifacts.transfers,
    usage.router,
    usage.transfers,
    pending_versions.router,
    runs.router,
    run_history.router,
    run_history.transfers,
    comments.router,
    blobs.router,
    blobs.transfers,
    events.router,
    executions.router,
    destinations.router,
    jobs.router,
    automations.router,
    workers.router,
    tokens.router,
    health.router,
    docs,
    home.router,
    sign_in.router,
    static_files.router,
)


def create_app(deps: WebDependencies) -> FastAPI:
    """
    Return the ASGI application.

    Raises:
        ConfigError: The settings would serve other machines without a token.
    """
    metrics = make_metrics(deps)
    token_auth = TokenAuth(deps.settings, deps.installation.key)
    known_tokens = KnownTokens(deps.tokens, deps.clock)
    sessions = Sessions(deps.sessions, deps.clock, deps.installation.key, configured_token(deps.settings))
    failures = FailedAttempts()
    app = FastAPI(
        title="Upshot",
        openapi_url=f"{API_PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=build_middleware(
            deps, metrics, token_auth=token_auth, tokens=known_tokens, sessions=sessions, failures=failures
        ),
    )
    app.state.deps = deps
    app.state.metrics = metrics
    app.state.token_auth = token_auth
    app.state.known_tokens = known_tokens
    app.state.sessions = sessions
    app.state.failures = failures
    app.state.refusals = Refusals(deps)
    app.state.mutation_slots = MutationSlots()
    app.state.transfer_threads = anyio.CapacityLimiter(TRANSFER_THREADS)
    app.state.probe_threads = anyio.CapacityLimiter(health.PROBE_THREADS)
    for router in ROUTERS:
        # `include_router` would prepare every route again at the first request, which takes half a second.
        app.router.routes.extend(router.routes)
    problems.install(app)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign] # FastAPI documents this way
    return app
