"""Turn exceptions into problem responses."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from upshot.errors import UpshotError
from upshot.web.problems import Problem, internal_error, problem_from_error

log = structlog.get_logger("upshot.web")


class ErrorMiddleware:
    """
    Answers with a problem if the application raises.

    FastAPI's handlers turn the errors of routes into problems already (see `upshot.web.problems.install`). This class
    does it for the errors of middleware, and for errors that nobody expected.

    Args:
        app: The next ASGI application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer with a problem if an exception comes back."""
        has_started = False

        async def send_and_record_start(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_start)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        except UpshotError as error:
            await problem_from_error(error).response()(scope, receive, send)
        except Exception:
            log.exception("request.failed", method=scope.get("method"), path=scope.get("path"))
            if has_started:
                raise  # the server closes the connection, so the client sees that the response is incomplete
            await internal_error().response()(scope, receive, send)
