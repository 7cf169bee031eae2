"""Check the token of a request."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from upshot.web.auth import JobTokenAuth, TokenAuth


class AuthenticationMiddleware:
    """
    Refuses requests without the right token, and sets `request.state.job` for requests with a job's token.

    Args:
        app: The next ASGI application.
        token_auth: Checks the token, or the host and origin of a server without a token.
        job_token_auth: Checks what a job may do.
    """

    def __init__(self, app: ASGIApp, token_auth: TokenAuth, job_token_auth: JobTokenAuth) -> None:
        self._app = app
        self._token_auth = token_auth
        self._job_token_auth = job_token_auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass a request on if its caller may make it.

        Raises:
            Problem: 401 or 403.
        """
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            local_address, _ = scope.get("server") or ("", None)
            job_id = self._token_auth.check(scope["method"], scope["path"], headers, local_address)
            if job_id is not None:
                scope.setdefault("state", {})["job"] = await run_in_threadpool(
                    self._job_token_auth.check, job_id, scope["method"], scope["path"], headers
                )
        await self._app(scope, receive, send)
