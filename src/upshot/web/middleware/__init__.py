"""
ASGI middleware of the web application, one concern per class.

A request passes them in this order, and its response passes them in reverse:

1. `MetricsMiddleware` logs, counts and times every request, so it sees refused requests and errors too.
2. `ErrorMiddleware` turns every exception into a problem response.
3. `AuthenticationMiddleware` finds out who makes the request: it checks the token or the session, or the host and
   origin of a server without a token. It comes before the checks of the request, so that a caller without a token
   learns nothing about the API. What the caller may do is checked by the route (see `upshot.web.permissions`).
4. `PathMiddleware` refuses paths that the router would misread.
5. `BodyLimitMiddleware` stops reading a body that is too large.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from upshot.web.auth import JobTokenAuth, TokenAuth
from upshot.web.dependencies import WebDependencies
from upshot.web.failed_attempts import FailedAttempts
from upshot.web.known_tokens import KnownTokens
from upshot.web.middleware.authentication import AuthenticationMiddleware
from upshot.web.middleware.body_limit import BodyLimitMiddleware
from upshot.web.middleware.errors import ErrorMiddleware
from upshot.web.middleware.metrics import MetricsMiddleware
from upshot.web.middleware.path import PathMiddleware
from upshot.web.sessions import Sessions


def build_middleware(
    deps: WebDependencies,
    metrics: CollectorRegistry,
    *,
    token_auth: TokenAuth,
    tokens: KnownTokens,
    sessions: Sessions,
    failures: FailedAttempts,
) -> list[Middleware]:
    """
    Return the middleware of the web application, outermost first.

    Args:
        deps: The objects that handle requests.
        metrics: The registry of `/metrics`.
        token_auth: Checks the server's token and job tokens.
        tokens: Finds named tokens.
        sessions: Finds sessions.
        failures: Counts wrong credentials.
    """
    return [
        Middleware(MetricsMiddleware, registry=metrics),
        Middleware(ErrorMiddleware),
        Middleware(
            AuthenticationMiddleware,
            token_auth=token_auth,
            job_token_auth=JobTokenAuth(deps.jobs),
            tokens=tokens,
            sessions=sessions,
            failures=failures,
            trusted_proxies=deps.settings.trusted_proxy_networks,
        ),
        Middleware(PathMiddleware),
        Middleware(BodyLimitMiddleware),
    ]
