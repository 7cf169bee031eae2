"""Log, count and time requests."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upshot.clock import stopwatch

log = structlog.get_logger("upshot.web")

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_BUCKETS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class MetricsMiddleware:
    """
    Logs every request, and counts and times requests by route.

    The label `route` is the template of the path, never the path itself, so that labels stay few.

    Args:
        app: The next ASGI application.
        registry: The Prometheus registry that `/metrics` shows.
    """

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter(
            "upshot_http_requests",
            "Number of requests. The status of a request without a response is 0.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "upshot_http_request_seconds",
            "Seconds from the head of a request to the end of its response.",
            ["method", "route"],
            buckets=_BUCKETS_SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its status and duration."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = stopwatch()
        status = 0

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_status)
        finally:
            took_seconds = stopwatch() - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "unknown")
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(took_seconds)
            log.debug(
                "request.finished",
                method=scope["method"],
                path=scope["path"],
                status=status,
                took_seconds=round(took_seconds, 6),
            )
