"""
ASGI middleware of the web application, one concern per class.

A request passes them in this order, and its response passes them in reverse:

1. `MetricsMiddleware` logs, counts and times every request, so it sees refused requests and errors too.
2. `ErrorMiddleware` turns every exception into a problem response.
3. `AuthenticationMiddleware` checks the token, or the host and origin of a server without a token. It comes before
   the checks of the request, so that a caller without a token learns nothing about the API.
4. `PathMiddleware` refuses paths that the router would misread.
5. `BodyLimitMiddleware` stops reading a body that is too large.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from upshot.web.auth import JobTokenAuth, TokenAuth
from upshot.web.dependencies import WebDependencies
from upshot.web.middleware.authentication import AuthenticationMiddleware
from upshot.web.middleware.body_limit import BodyLimitMiddleware
from upshot.web.middleware.errors import ErrorMiddleware
from upshot.web.middleware.metrics import MetricsMiddleware
from upshot.web.middleware.path import PathMiddleware


def build_middleware(deps: WebDependencies, metrics: CollectorRegistry) -> list[Middleware]:
    """
    Return the middleware of the web application, outermost first.

    Raises:
        ConfigError: The settings would serve other machines without a token.
    """
    return [
        Middleware(MetricsMiddleware, registry=metrics),
        Middleware(ErrorMiddleware),
        Middleware(
            AuthenticationMiddleware,
            token_auth=TokenAuth(deps.settings, deps.installation.key),
            job_token_auth=JobTokenAuth(deps.jobs),
        ),
        Middleware(PathMiddleware),
        Middleware(BodyLimitMiddleware),
    ]
